"""Search for the batch sizes that fit into memory, with the speed and the memory of each."""

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
from src.core.resources import available_memory, reset_peak_memory, resident_memory
from src.datamodules.base import DataModule
from src.regularization.example_augmentation import example_augmentation
from src.run_store import train_log
from src.training.build import build_data, build_model, build_trainer
from src.training.inference import Translator

SHARE = 0.8
"""Share of the free memory that training may use."""
PATIENCE = 10.0
"""Seconds: if a step takes longer, no larger batch is tried."""
FIRST = 8
"""The first batch size that is tried."""
RESOLUTION = 8
"""The search ends when the largest batch that fits is known to 1/8 of its size."""
WARM_UP_STEPS = 2
"""Steps before timing starts."""
MAX_TIMED_STEPS, MIN_TIMED_SECONDS = 20, 1.0
"""Timing ends after so many steps, or after so many seconds."""
FAST_SHARE = 0.9
"""Share of the highest rate from which a batch size counts as fast."""


@dataclass(frozen=True)
class Trial:
    """Result for a batch size that fits.

    Args:
        batch_size: examples per batch.
        rate: examples per second, including data loading and optimizer.
        peak: peak memory in bytes: allocated memory on a GPU, otherwise memory of the whole process.
    """

    batch_size: int
    rate: float
    peak: int


@dataclass(frozen=True)
class BatchSizes:
    """Result of a batch-size search.

    Args:
        trials: results of all batch sizes that fit, from small to large.
        budget: maximum peak memory in bytes.
        stop_reason: why no larger batch was tried.
    """

    trials: tuple[Trial, ...]
    budget: int
    stop_reason: str

    @property
    def largest(self) -> int:
        """The largest batch size that fits."""
        return self.trials[-1].batch_size

    @property
    def suggestion(self) -> int:
        """The smallest batch size that is about as fast as the fastest: larger ones need more memory and save no time."""
        best = max(trial.rate for trial in self.trials)
        return next(trial.batch_size for trial in self.trials if trial.rate >= FAST_SHARE * best)


def sizes_to_try(fits: Callable[[int], bool], first: int, maximum: int) -> Iterator[int]:
    """Yield batch sizes: double the size until one does not fit, then bisect between the largest that fits and the smallest
    that does not, until they are close.

    Args:
        fits: whether the size that was yielded last fits; called before the next size is chosen.
        first: the first size.
        maximum: the largest size to try.
    """
    low, high, size = 0, maximum + 1, min(first, maximum)
    while True:
        yield size
        if fits(size):
            low = size
        else:
            high = size
        if high - low <= max(1, low // RESOLUTION):
            return
        size = (low + high) // 2 if high <= maximum else min(2 * low, maximum)


def find_batch_sizes(config: Config, share: float = SHARE, patience: float = PATIENCE) -> BatchSizes:
    """Train a few steps with growing batch sizes, in a separate process that may run out of memory safely.

    Args:
        config: a validated config; only one device is used.
        share: share of the free memory that training may use.
        patience: seconds; if a step takes longer, no larger batch is tried.

    Raises:
        UserError: if no batch fits.
    """
    request = json.dumps({"plain": config.plain(), "share": share, "patience": patience})
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # for classes of extensions
    trials: list[Trial] = []
    budget, tried, stop_reason, failure = 0, 0, "", ""
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
            with suppress(BrokenPipeError):  # the process ended before it read the request
                process.stdin.write(request)
                process.stdin.close()
            for line in process.stdout:
                message = json.loads(line)
                if "trial" in message:
                    trials.append(Trial(**message["trial"]))
                budget, tried = message.get("budget", budget), message.get("tried", tried)
                stop_reason, failure = message.get("stop_reason", stop_reason), message.get("failure", failure)
    finally:
        process.kill()
        process.wait()
    if failure or not tried:
        raise RuntimeError(
            f"the batch-size finder failed:\n{failure or f'its process ended with exit code {process.returncode}'}"
        )
    if not trials:
        raise UserError(
            f"callbacks.batch_size_finder: not even a batch of {tried} fits into memory. Reduce the memory with "
            "model.checkpoint_activations=true, trainer.precision=bf16-mixed or a smaller model"
        )
    stop_reason = stop_reason or f"the process was killed at {tried:,}, probably out of memory"
    return BatchSizes(tuple(sorted(trials, key=lambda trial: trial.batch_size)), budget, stop_reason)


# ---- the search process --------------------------------------------------------------------------------------------


def main() -> None:
    """Read a config from standard input, search the batch sizes, and write the results to standard output, as JSON lines."""
    results = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # output of data libraries must not mix with the results

    def send(**message: Any) -> None:
        echo(json.dumps(message), file=results, flush=True)

    with train_log.log_to(None, quiet=True):
        try:
            request = json.load(sys.stdin)
            _BatchSizeSearch(send, check(request["plain"]), request["share"], request["patience"]).run()
        except Exception:
            send(failure=traceback.format_exc())


class _BatchSizeSearch:
    def __init__(self, send: Callable[..., None], config: Config, share: float, patience: float) -> None:
        settings = config.trainer.model_copy(
            update={
                "devices": 1,
                "strategy": "auto",
                "max_epochs": 10**6,
                "max_steps": -1,
                "max_time": None,
                "limit_train_batches": 1.0,
                "limit_val_batches": 0,
                "log_every_n_steps": 0,
                "profiler": None,
                "detect_anomaly": False,
            }
        )
        self.config = config.model_copy(update={"trainer": settings})
        self.send = send
        self.patience = patience
        self.trials: list[Trial] = []
        device = build_trainer(self.config).strategy.root_device
        self.cuda = device if device.type == "cuda" else None
        if self.cuda is not None:
            torch.cuda.set_device(self.cuda)
            free, total = torch.cuda.mem_get_info(self.cuda)
            self.budget = int(share * free)
            torch.cuda.set_per_process_memory_fraction(self.budget / total, self.cuda)
        else:
            self.budget = resident_memory() + int(share * available_memory())
        send(budget=self.budget)

    def run(self) -> None:
        data = build_data(self.config)
        data.augmentation = example_augmentation(self.config.regularization, data.raw, Translator)
        data.prepare_data()
        data.setup()
        maximum = len(data.split("train")[0])
        fitting: set[int] = set()
        for size in sizes_to_try(fitting.__contains__, FIRST, maximum):
            self.send(tried=size)
            result = self.attempt(data, size)
            if result is None:
                continue
            trial, step_seconds = result
            fitting.add(size)
            self.trials.append(trial)
            self.send(trial=asdict(trial))
            if step_seconds > self.patience and size < maximum:
                self.send(stop_reason=f"a step with {size:,} takes {step_seconds:.0f} s")
                return
        fits_all = maximum in fitting
        self.send(stop_reason="that is the whole training split" if fits_all else "more does not fit")

    def attempt(self, data: DataModule, size: int) -> tuple[Trial, float] | None:
        """Return the result of a batch size and the seconds per step; None if it does not fit."""
        if self._predicted_peak(size) > self.budget:
            return None
        data.trainer = None  # release the model of the last trial
        gc.collect()
        self._reset_peak()
        L.seed_everything(self.config.seed, workers=True, verbose=False)
        data.batch_size = size
        clock = _Clock(size, self.cuda)
        try:
            model = build_model(self.config, data.spec)
            model._report = _do_nothing  # type: ignore[method-assign]  # divergence does not matter here
            build_trainer(self.config, [clock]).fit(model, datamodule=data)
        except (torch.OutOfMemoryError, MemoryError):
            return None
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
            return None
        peak = torch.cuda.max_memory_allocated(self.cuda) if self.cuda is not None else resident_memory(peak=True)
        if peak > self.budget:
            return None
        return Trial(size, clock.rate, peak), clock.step_seconds

    def _predicted_peak(self, size: int) -> float:
        """Return the expected peak memory in bytes, extrapolated from smaller batches; on a GPU, allocation simply fails."""
        if self.cuda is not None or len(self.trials) < 2:
            return 0.0
        one, two = sorted(self.trials, key=lambda trial: trial.batch_size)[-2:]
        bytes_per_example = max(two.peak - one.peak, 0) / (two.batch_size - one.batch_size)
        return two.peak + bytes_per_example * (size - two.batch_size)

    def _reset_peak(self) -> None:
        if self.cuda is not None:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.cuda)
        else:
            reset_peak_memory()


def _do_nothing(*_: Any, **__: Any) -> None:
    pass


class _Clock(Callback):
    """Measure the time of full batches, and stop training after enough of them."""

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
        num_timed = len(self.ends) - WARM_UP_STEPS
        if num_timed < 1:
            return
        seconds = self.ends[-1] - self.ends[WARM_UP_STEPS - 1]
        if num_timed >= MAX_TIMED_STEPS or seconds >= MIN_TIMED_SECONDS:
            trainer.should_stop = True

    @property
    def rate(self) -> float:
        """Examples per second."""
        return sum(self.examples[WARM_UP_STEPS:]) / (self.ends[-1] - self.ends[WARM_UP_STEPS - 1])

    @property
    def step_seconds(self) -> float:
        """Seconds per full batch."""
        return self.size / self.rate


if __name__ == "__main__":
    main()
