"""The batch sizes that fit into memory: how fast each of them trains, and what it takes."""

import gc
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from src.config.schema.run import Config
from src.config.validate import check
from src.core.console import echo
from src.core.errors import UserError
from src.core.resources import available_memory, forget_peak, resident
from src.datamodules.base import DataModule
from src.regularization.example_augmentation import example_augmentation
from src.run_store import train_log
from src.training.build import build_data, build_model, build_trainer
from src.training.inference import Translator

SHARE = 0.8
"""Of the memory that is free, what training may take."""
PATIENCE = 10.0
"""Seconds: where a step takes longer, no larger batch is tried."""
FIRST = 8
"""The first batch size that is tried."""
RESOLUTION = 8
"""The largest batch that fits is found to 1/8 of it."""
WARM_UP, TIMED, LONG_ENOUGH = 2, 20, 1.0
"""Steps before the clock runs; the most steps that are timed, and the seconds after which fewer are enough."""
CLOSE = 0.9
"""Share of the highest rate with which a batch size counts as fast."""


@dataclass(frozen=True)
class Trial:
    """A batch size that fits.

    Args:
        batch_size: examples of a batch.
        rate: examples a second, data and optimizer included.
        peak: bytes at the most: on a GPU of what was allocated there, elsewhere of the whole process.
    """

    batch_size: int
    rate: float
    peak: int


@dataclass(frozen=True)
class BatchSizes:
    """What came out.

    Args:
        trials: each batch size that was tried and fits, from small to large.
        budget: bytes that the peak was to stay below.
        ended: why nothing larger was tried.
    """

    trials: tuple[Trial, ...]
    budget: int
    ended: str

    @property
    def largest(self) -> int:
        """The largest that fits."""
        return self.trials[-1].batch_size

    @property
    def suggestion(self) -> int:
        """The smallest that is about as fast as the fastest: larger ones cost memory and steps, and gain no time."""
        best = max(trial.rate for trial in self.trials)
        return next(trial.batch_size for trial in self.trials if trial.rate >= CLOSE * best)


def sizes_to_try(fits: Callable[[int], bool], first: int, most: int) -> Iterator[int]:
    """Yield batch sizes: doubled until one does not fit, and then halfway between the largest that fits and the smallest that
    does not, until these are close.

    Args:
        fits: whether a size that was yielded has fitted; asked before the next is chosen.
        first: the first size.
        most: the largest that makes sense.
    """
    low, high, size = 0, most + 1, min(first, most)
    while True:
        yield size
        if fits(size):
            low = size
        else:
            high = size
        if high - low <= max(1, low // RESOLUTION):
            return
        size = (low + high) // 2 if high <= most else min(2 * low, most)


def find_batch_sizes(config: Config, share: float = SHARE, patience: float = PATIENCE) -> BatchSizes:
    """Train a few steps with growing batches, in a process of its own, which may run out of memory without harm.

    Args:
        config: a checked config; one device is tried.
        share: of the memory that is free, what the training may take.
        patience: seconds; where a step takes longer, no larger batch is tried.

    Raises:
        UserError: if no batch fits.
    """
    asked = json.dumps({"plain": config.plain(), "share": share, "patience": patience})
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # where a user's own classes are
    trials: list[Trial] = []
    budget, tried, ended, failure = 0, 0, "", ""
    process = subprocess.Popen(
        [sys.executable, "-m", "src.diagnostics.batch_size_search"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        with process.stdin, process.stdout:
            with suppress(BrokenPipeError):  # it ended before it was asked
                process.stdin.write(asked)
                process.stdin.close()
            for line in process.stdout:
                said = json.loads(line)
                trials += [Trial(**said["trial"])] if "trial" in said else []
                budget, tried = said.get("budget", budget), said.get("tried", tried)
                ended, failure = said.get("ended", ended), said.get("failure", failure)
    finally:
        process.kill()
        process.wait()
    if failure or not tried:
        raise RuntimeError(
            f"the batch-size finder failed:\n{failure or f'its process ended with {process.returncode}'}"
        )
    if not trials:
        raise UserError(
            f"callbacks.batch_size_finder: not even a batch of {tried} fits into memory. model.checkpoint_activations=true, "
            "trainer.precision=bf16-mixed or a smaller model needs less"
        )
    ended = ended or f"{tried:,} was more than the machine has"  # it was killed
    return BatchSizes(tuple(sorted(trials, key=lambda trial: trial.batch_size)), budget, ended)


# ---- the process ---------------------------------------------------------------------------------------------------


def main() -> None:
    """Walk through the sizes for the config that standard input has, and tell on standard output, in JSON, what comes out."""
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what data print goes elsewhere

    def tell(**what: Any) -> None:
        echo(json.dumps(what), file=told, flush=True)

    with train_log.log_to(None, quiet=True):
        try:
            asked = json.load(sys.stdin)
            _Walk(tell, check(asked["plain"]), asked["share"], asked["patience"]).run()
        except Exception:
            tell(failure=traceback.format_exc())


class _Walk:
    def __init__(self, tell: Callable[..., None], config: Config, share: float, patience: float) -> None:
        one = {"devices": 1, "strategy": "auto", "max_epochs": 10**6, "max_steps": -1, "max_time": None}
        all_of_it = {"limit_train_batches": 1.0, "limit_val_batches": 0, "log_every_n_steps": 0}
        settings = config.trainer.model_copy(update={**one, **all_of_it, "profiler": None, "detect_anomaly": False})
        self.config = config.model_copy(update={"trainer": settings})
        self.tell = tell
        self.patience = patience
        self.trials: list[Trial] = []
        device = build_trainer(self.config).strategy.root_device
        self.cuda = device if device.type == "cuda" else None
        if self.cuda is not None:
            torch.cuda.set_device(self.cuda)
            free, whole = torch.cuda.mem_get_info(self.cuda)
            self.budget = int(share * free)
            torch.cuda.set_per_process_memory_fraction(self.budget / whole, self.cuda)
        else:
            self.budget = resident() + int(share * available_memory())
        tell(budget=self.budget)

    def run(self) -> None:
        data = build_data(self.config)
        data.augmentation = example_augmentation(self.config.regularization, data.raw, Translator)
        data.prepare_data()
        data.setup()
        most = len(data.split("train")[0])
        fitting: set[int] = set()
        for size in sizes_to_try(fitting.__contains__, FIRST, most):
            self.tell(tried=size)
            if (found := self.attempt(data, size)) is None:
                continue
            trial, step = found
            fitting.add(size)
            self.trials.append(trial)
            self.tell(trial=asdict(trial))
            if step > self.patience and size < most:
                self.tell(ended=f"a step of {size:,} takes {step:.0f} s")
                return
        whole = most in fitting
        self.tell(ended="that is the whole training split" if whole else "more does not fit")

    def attempt(self, data: DataModule, size: int) -> tuple[Trial, float] | None:
        """Return how a batch size trains, and the seconds of a step; None where it does not fit."""
        if self._foreseen(size) > self.budget:
            return None
        data.trainer = None  # which holds the model of the last trial
        gc.collect()
        self._forget_peak()
        L.seed_everything(self.config.seed, workers=True, verbose=False)
        data.batch_size = size
        clock = _Clock(size, self.cuda)
        try:
            model = build_model(self.config, data.spec)
            model._report = _nothing  # type: ignore[method-assign]  # whether it diverges is not asked here
            build_trainer(self.config, [clock]).fit(model, datamodule=data)
        except (torch.OutOfMemoryError, MemoryError):
            return None
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
            return None
        peak = torch.cuda.max_memory_allocated(self.cuda) if self.cuda is not None else resident(peak=True)
        if peak > self.budget:
            return None
        return Trial(size, clock.rate, peak), clock.step

    def _foreseen(self, size: int) -> float:
        """Return the bytes that a batch will take, from those that were tried; a GPU says itself when it has no more."""
        if self.cuda is not None or len(self.trials) < 2:
            return 0.0
        one, two = sorted(self.trials, key=lambda trial: trial.batch_size)[-2:]
        an_example = max(two.peak - one.peak, 0) / (two.batch_size - one.batch_size)
        return two.peak + an_example * (size - two.batch_size)

    def _forget_peak(self) -> None:
        if self.cuda is not None:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.cuda)
        else:
            forget_peak()


def _nothing(*_: Any, **__: Any) -> None:
    pass


class _Clock(Callback):
    """Times full batches from end to end, and stops training when it has seen enough."""

    def __init__(self, size: int, cuda: torch.device | None) -> None:
        self.size, self.cuda = size, cuda
        self.ends: list[float] = []
        self.examples: list[int] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.cuda is not None:
            torch.cuda.synchronize(self.cuda)
        self.ends.append(time.perf_counter())
        self.examples.append(len(batch[0]))
        timed = len(self.ends) - WARM_UP
        if timed >= TIMED or (timed >= 1 and self.ends[-1] - self.ends[WARM_UP - 1] >= LONG_ENOUGH):
            trainer.should_stop = True

    @property
    def rate(self) -> float:
        """Examples a second."""
        return sum(self.examples[WARM_UP:]) / (self.ends[-1] - self.ends[WARM_UP - 1])

    @property
    def step(self) -> float:
        """Seconds of a full batch."""
        return self.size / self.rate


if __name__ == "__main__":
    main()
