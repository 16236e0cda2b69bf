"""Time a few steps of fused and of separate training, to choose the faster way and the number of members."""

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
from src.training.experiment import build_seeded_model

CLEAR_STEPS = 2
"""Timed steps after which a clear result is accepted."""
MIN_STEPS, MAX_STEPS, MAX_SECONDS = 3, 50, 0.3
"""Limits of the timed steps of each way: more than the minimum are taken as long as there is time. The fastest step counts."""
SMALL_GROUP = 8
"""Number of members of the smaller group that is timed."""
CLEAR_GAIN = 3.0
"""Speed-up of fused training from which on a few steps are enough, and the smaller group is not timed."""
CLEAR_LOSS = 1.2
"""Slow-down of fused training from which on a few steps are enough."""
MIN_GAIN = 1.05
"""Minimum speed-up for which fused training is chosen, as a group costs memory and time of its own."""
SLOW_STEP_SECONDS = 0.1
"""Seconds of a step of all jobs, trained separately, from which on the smaller group is timed first: arithmetic takes most of
such a step, and if the smaller group gains nothing, a larger one, which takes long to time, gains nothing either."""


@dataclass(frozen=True)
class SpeedTrial:
    """Measured times.

    Args:
        separate: seconds of a step of one member that is trained separately.
        fused: seconds of a step of a group, by its number of members.
    """

    separate: float
    fused: dict[int, float]

    @property
    def size(self) -> int:
        """Number of members of the fastest group; 1 if separate training is as fast."""
        if not self.fused:
            return 1
        best = min(self.fused, key=lambda size: self.fused[size] / size)
        return best if self.separate * best > MIN_GAIN * self.fused[best] else 1

    def __str__(self) -> str:
        if not self.fused:
            return "not enough device memory for several members: not fused"
        parts = [
            f"a step of {size} jobs takes {1000 * seconds:.2f} ms fused and {1000 * size * self.separate:.2f} ms separately"
            for size, seconds in sorted(self.fused.items(), reverse=True)
        ]
        choice = "not fused" if self.size == 1 else f"fused, {self.size} at a time"
        return f"{'; '.join(parts)}: {choice}"


def time_in_turns(
    steps: Sequence[Callable[[], object]],
    clock: Callable[[], float],
    is_clear: Callable[..., bool] = lambda *seconds: False,
) -> list[float]:
    """Return the shortest time of each step in seconds; the steps take turns, so that disturbances affect all of them.

    Args:
        steps: functions to time.
        clock: returns the time in seconds.
        is_clear: takes the shortest times so far, one argument per step; returns whether they are enough.
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
    """Use one thread of torch: the clock cannot separate the time that threads wait for each other from work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_speed_trial(configs: Sequence[Config], datamodule: DataModule) -> SpeedTrial:
    """Time a few steps on temporary models: on a CPU in one thread, by processor time.

    Args:
        configs: configs of the members.
        datamodule: with the data loaded.
    """
    with log_to(None, quiet=True):  # no run has started yet
        trainer = build_trainer(configs[0])
    plugin, device = trainer.precision_plugin, trainer.strategy.root_device
    clock = time.process_time if device.type == "cpu" else time.perf_counter  # other programs may use the CPU too

    def build_member(config: Config) -> Model:
        model = plugin.convert_module(build_seeded_model(config, datamodule))
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

    first = build_member(configs[0])
    optimizer = build_optimizer(first, configs[0])
    batch, _ = batch_of(1)
    knobs = configs[0].regularization

    def separate_step() -> None:
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
        (separate,) = time_in_turns([synchronized(separate_step)], clock, lambda seconds: True)
    is_slow = separate * len(configs) > SLOW_STEP_SECONDS
    for size in sorted({min(SMALL_GROUP, len(configs)), len(configs)}, reverse=not is_slow):
        try:
            models = [build_member(config) for config in configs[:size]]
            optimizers = [build_optimizer(model, config) for model, config in zip(models, configs, strict=False)]
            population, (stacked_batch, stacked) = Population(models, optimizers), batch_of(size)
            fused_step = partial(population.step, stacked_batch, stacked=stacked)
            with _one_thread():
                seconds, fused[size] = time_in_turns(
                    [synchronized(separate_step), synchronized(fused_step)], clock, partial(_is_decided, size)
                )
        except torch.OutOfMemoryError:
            continue
        separate = min(separate, seconds)
        if separate * size <= MIN_GAIN * fused[size] if is_slow else _is_clearly_faster(size, separate, fused[size]):
            break
    return SpeedTrial(separate, fused)
