"""A few steps of both ways, before a group is trained: is it faster as one, and how many members at a time?"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from src.config.schema.run import Config
from src.core.batches import Batch
from src.datamodules.base import DataModule
from src.fused.population.population import Population
from src.fused.stacked_loader import StackedLoader
from src.models.base import Model
from src.optim.factory import build_optimizer
from src.run_store.train_log import log_to
from src.training.build import build_trainer
from src.training.experiment import seeded_model

CLEAR_STEPS, MIN_STEPS, MAX_STEPS, MAX_SECONDS = 2, 3, 50, 0.3
"""Timed steps of each way, in turns, after one that is not: those after which it may be clear which is faster, and else at
least, and at most, and in between as many as there is time for. The fastest counts."""
SMALL_GROUP = 8
"""Members of the smaller group that is tried."""
CLEAR_GAIN = 3.0
"""How many times faster all as one must be, for a few steps to be enough, and the smaller group not to be tried."""
CLEAR_LOSS = 1.2
"""How many times slower as one, for a few steps to be enough."""
MIN_GAIN = 1.05
"""How many times faster it must be as one: a group has costs of its own, and memory."""
SLOW_STEP_SECONDS = 0.1
"""Seconds of a step of all one by one, from which on the smaller group is tried first: what gains nothing there, where calls
cost little beside arithmetic, gains nothing with more members, whose steps take long to try."""


@dataclass(frozen=True)
class SpeedTrial:
    """What was measured.

    Args:
        alone: seconds of a step of one member on its own.
        together: seconds of a step of a group, by its members.
    """

    separate: float
    fused: dict[int, float]

    @property
    def size(self) -> int:
        """The members of the fastest group; 1 where one by one is as fast."""
        if not self.fused:
            return 1
        best = min(self.fused, key=lambda size: self.fused[size] / size)
        return best if self.separate * best > MIN_GAIN * self.fused[best] else 1

    def __str__(self) -> str:
        if not self.fused:
            return "there is no room for several in the device's memory: one by one"
        parts = [
            f"a step of {size} takes {1000 * seconds:.2f} ms as one and {1000 * size * self.alone:.2f} ms one by one"
            for size, seconds in sorted(self.fused.items(), reverse=True)
        ]
        size = self.size
        return f"{'; '.join(parts)}: {'one by one' if size == 1 else f'trained as one, {size} at a time'}"


def time_in_turns(
    steps: Sequence[Callable[[], object]],
    clock: Callable[[], float],
    is_clear: Callable[..., bool] = lambda *seconds: False,
) -> list[float]:
    """Return the least seconds that each step takes; they are taken in turns, so that what disturbs one disturbs all.

    Args:
        steps: to be timed.
        clock: tells the seconds.
        clear: tells whether the least seconds so far, one an argument, are enough.
    """
    taken: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step()
    started = clock()
    for number in range(1, MAX_STEPS + 1):
        for step, seconds in zip(steps, taken, strict=True):
            step_started = clock()
            step()
            seconds.append(clock() - step_started)
        if number >= CLEAR_STEPS and is_clear(*map(min, taken)):
            break
        if number >= MIN_STEPS and clock() - started >= MAX_SECONDS:
            break
    return [min(seconds) for seconds in taken]


def _is_clearly_faster(size: int, separate: float, fused: float) -> bool:
    return separate * size > CLEAR_GAIN * fused


def _is_decided(size: int, separate: float, fused: float) -> bool:
    return _is_clearly_faster(size, separate, fused) or fused > CLEAR_LOSS * separate * size


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads wait for each other, the longer the busier the machine is, and no clock can tell that from work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_speed_trial(configs: Sequence[Config], datamodule: DataModule) -> SpeedTrial:
    """Time a few steps on models that are thrown away: on a processor in one thread, by the time that it works.

    Args:
        configs: of the members.
        datamodule: with the data loaded.
    """
    with log_to(None, quiet=True):  # no run has begun whose log it would be
        trainer = build_trainer(configs[0])
    plugin, device = trainer.precision_plugin, trainer.strategy.root_device
    clock = time.process_time if device.type == "cpu" else time.perf_counter  # others may use the processor too

    def build(config: Config) -> Model:
        model = plugin.convert_module(seeded_model(config, datamodule))
        assert isinstance(model, Model)
        return model.to(device)

    def batch_of(size: int) -> tuple[Batch, bool]:
        loader = StackedLoader(datamodule, [config.datamodule.seed for config in configs[:size]])
        batch = plugin.convert_input(next(iter(loader)))
        return trainer.strategy.batch_to_device(batch), loader.stacked

    def synchronized(step: Callable[[], object]) -> Callable[[], None]:
        def synchronized_step() -> None:
            with plugin.forward_context():
                step()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return synchronized_step

    first = build(configs[0])
    optimizer = build_optimizer(first, configs[0])
    batch, _ = batch_of(1)
    knobs = configs[0].regularization

    def separate() -> None:
        losses = first.losses(first(*batch.inputs), batch.targets, knobs.label_smoothing)
        optimizer.zero_grad()
        losses.mean().backward()  # type: ignore[no-untyped-call]
        if knobs.gradient_clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(first.parameters(), knobs.gradient_clip_norm)
        elif knobs.gradient_clip_value is not None:
            torch.nn.utils.clip_grad_value_(first.parameters(), knobs.gradient_clip_value)
        optimizer.step()

    fused: dict[int, float] = {}
    with _one_thread():
        (single,) = time_in_turns([synchronized(separate)], clock, lambda seconds: True)
    is_heavy = single * len(configs) > SLOW_STEP_SECONDS
    for size in sorted({min(SMALL_GROUP, len(configs)), len(configs)}, reverse=not is_heavy):
        try:
            models = [build(config) for config in configs[:size]]
            optimizers = [build_optimizer(model, config) for model, config in zip(models, configs, strict=False)]
            population, (stacked_batch, stacked) = Population(models, optimizers), batch_of(size)
            as_one = partial(population.step, stacked_batch, stacked=stacked)
            with _one_thread():
                once, fused[size] = time_in_turns([synchronized(separate), synchronized(as_one)], clock, partial(_is_decided, size))
        except torch.OutOfMemoryError:
            continue
        single = min(single, once)
        if single * size <= MIN_GAIN * fused[size] if is_heavy else _is_clearly_faster(size, single, fused[size]):
            break
    return SpeedTrial(single, fused)
