"""A few steps of both ways, before a group is trained: is it faster as one, and how many members at a time?"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from src.batches import Batch
from src.config.schema import Config
from src.datamodules.base import DataModule
from src.experiment import build_trainer, seeded_model
from src.models.base import Model
from src.optim.build import build_optimizer
from src.population.population import Population
from src.sweeping.fused.data import StackedLoader
from src.tracking.closing import log_to

STEPS = 3
"""Timed steps of each way, after one that is not; the fastest counts."""
FEW = 8
"""Members of the smaller group that is tried."""
CLEAR = 3.0
"""How many times faster all as one must be, for the smaller group not to be tried."""
GAIN = 1.05
"""How many times faster it must be as one: a group has costs of its own, and memory."""


@dataclass(frozen=True)
class Trial:
    """What was measured.

    Args:
        alone: seconds of a step of one member on its own.
        together: seconds of a step of a group, by its members.
    """

    alone: float
    together: dict[int, float]

    @property
    def size(self) -> int:
        """The members of the fastest group; 1 where one by one is as fast."""
        if not self.together:
            return 1
        best = min(self.together, key=lambda size: self.together[size] / size)
        return best if self.alone * best > GAIN * self.together[best] else 1

    def __str__(self) -> str:
        if not self.together:
            return "there is no room for several in the device's memory: one by one"
        parts = [
            f"a step of {size} takes {1000 * seconds:.2f} ms as one and {1000 * size * self.alone:.2f} ms one by one"
            for size, seconds in sorted(self.together.items(), reverse=True)
        ]
        size = self.size
        return f"{'; '.join(parts)}: {'one by one' if size == 1 else f'trained as one, {size} at a time'}"


def trial(configs: Sequence[Config], datamodule: DataModule) -> Trial:
    """Time a few steps on models that are thrown away.

    Args:
        configs: of the members.
        datamodule: with the data loaded.
    """
    with log_to(None, quiet=True):  # no run has begun whose log it would be
        trainer = build_trainer(configs[0])
    plugin, device = trainer.precision_plugin, trainer.strategy.root_device
    alone_on_core = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone_on_core else time.perf_counter  # others may use the core too

    def made(config: Config) -> Model:
        model = plugin.convert_module(seeded_model(config, datamodule))
        assert isinstance(model, Model)
        return model.to(device)

    def batch_of(size: int) -> tuple[Batch, bool]:
        loader = StackedLoader(datamodule, [config.datamodule.seed for config in configs[:size]])
        batch = plugin.convert_input(next(iter(loader)))
        return trainer.strategy.batch_to_device(batch), loader.stacked

    def seconds(step: Callable[[], object]) -> float:
        taken = []
        for _ in range(STEPS + 1):
            began = clock()
            with plugin.forward_context():
                step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(clock() - began)
        return min(taken[1:])

    first = made(configs[0])
    optimizer = build_optimizer(first, configs[0])
    batch, _ = batch_of(1)

    def alone() -> None:
        losses = first.losses(first(*batch.inputs), batch.targets, configs[0].regularization.label_smoothing)
        optimizer.zero_grad()
        losses.mean().backward()  # type: ignore[no-untyped-call]
        if (limit := configs[0].regularization.gradient_clip_norm) is not None:
            torch.nn.utils.clip_grad_norm_(first.parameters(), limit)
        optimizer.step()

    single, together = seconds(alone), {}
    models = [made(config) for config in configs]
    for size in sorted({min(FEW, len(configs)), len(configs)}, reverse=True):
        group = models[:size]
        optimizers = [build_optimizer(model, config) for model, config in zip(group, configs, strict=False)]
        stacked_batch, stacked = batch_of(size)
        try:
            population = Population(group, optimizers)
            together[size] = seconds(lambda p=population, b=stacked_batch, s=stacked: p.step(b, stacked=s))  # type: ignore[misc]
        except torch.OutOfMemoryError:
            continue
        if single * size > CLEAR * together[size]:
            break
    return Trial(single, together)
