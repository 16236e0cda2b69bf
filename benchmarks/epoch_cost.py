"""Time of an epoch, relative to a bare PyTorch loop: python -m benchmarks.epoch_cost [--epochs 7] [--cpu]

All sides train the same network with Adam over batches indexed from one tensor, in one process and alternating: a bare epoch
with the defaults of `torch.optim.Adam`, one with `fused=True`, which Gridlight selects automatically, then one of Gridlight,
and so on. Gridlight's side is a complete run: Lightning, default callbacks (early stopping, checkpoints, progress), metrics,
metrics.jsonl; without W&B. The bare sides compute no training metrics and save nothing. All sides validate on the same
batches after every epoch (bare: forward pass, loss, accuracy).

Results are medians, without the first epoch of each side, which is warm-up. `--only lstm` runs the cases with this text
in their name; `--cpu` measures processor time, for a machine that is shared with other programs.
"""

import argparse
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf
from torch import Tensor, nn

from benchmarks.machine import load, machine, today
from src.config.compose import compose
from src.config.schema.run import Config
from src.config.validate import check
from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.datamodules.base import DataModule
from src.loggers.factory import build_loggers, close_loggers
from src.run_store.run_folder import RunFolder
from src.training.build import build_model
from src.training.experiment import build

CLASSES = 10
CLOCK = time.perf_counter


class RandomImages(DataModule):
    """Noise in the shape of Fashion-MNIST with random labels: images 28×28, of which 1,280 are for validation."""

    task = "classification"
    inputs = "image"

    def __init__(self, train_size: int, **common: Any) -> None:
        super().__init__(**common)
        self.train_size = train_size

    def load(self) -> dict[str, Batch]:
        generator = torch.Generator().manual_seed(0)
        sizes = {"train": self.train_size, "val": 1_280, "test": 1_280}
        return {
            name: LabelledBatch(
                torch.randn(size, 1, 28, 28, generator=generator),
                torch.randint(CLASSES, (size,), generator=generator),
            )
            for name, size in sizes.items()
        }

    @property
    def spec(self) -> DataSpec:
        return DataSpec(self.task, self.inputs, (1, 28, 28), (CLASSES,))

    def encode(self, inputs: object) -> Batch:
        raise AssertionError("random images are not used for prediction")


@dataclass(frozen=True)
class Case:
    """One model, at its defaults, on one data source.

    Args:
        name: as printed.
        overrides: the model and its settings, as on the command line.
        batch_size: batch size of all sides.
        train_size: number of random images; None uses digits.
    """

    name: str
    overrides: tuple[str, ...]
    batch_size: int
    train_size: int | None = None

    def config(self, epochs: int, outputs: Path) -> Config:
        """Return the config of a run with default settings on the data of this case."""
        cfg = compose([*self.overrides, "datamodule=digits", "trainer=cpu", "logger=none"])
        OmegaConf.set_struct(cfg, False)
        if self.train_size is not None:
            cfg.datamodule = {
                "name": "benchmark",
                "_target_": f"{RandomImages.__module__}.{RandomImages.__name__}",
                "seed": 0,
                "train_size": self.train_size,
            }
        cfg.datamodule.batch_size = self.batch_size
        cfg.datamodule.default_epochs = epochs
        cfg.regularization.early_stopping_patience = epochs  # monitors, but never stops
        cfg.paths.outputs = str(outputs)
        return check(cfg)


def cases(batch_size: int) -> list[Case]:
    """Return the models on images 28×28, which LSTM and transformer read row by row, with fewer images for the slower models."""
    return [
        Case("MLP 784-256-128-10", ("model=mlp", "model.hidden_sizes=[256,128]"), batch_size, 60_000),
        Case("CNN", ("model=cnn",), batch_size, 100 * batch_size),
        Case("LSTM", ("model=lstm",), batch_size, 100 * batch_size),
        Case("transformer", ("model=transformer",), batch_size, 100 * batch_size),
    ]


CASES = [*cases(32), *cases(128), Case("MLP 64-128-64-10, digits", ("model=mlp",), 64)]


@dataclass
class BareLoop:
    """A plain training loop without any framework, for the same network, data and optimizer."""

    network: nn.Module
    train: Batch
    val: Batch
    batch_size: int
    fused: bool

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3, fused=self.fused)

    def epoch(self) -> None:
        x, y = self.train[0], self.train.targets
        self.network.train()
        for index in torch.randperm(len(x)).split(self.batch_size):
            loss = F.cross_entropy(self.network(x[index]), y[index])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.network.eval()
        self._validate(self.val[0], self.val.targets)

    @torch.no_grad()
    def _validate(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        loss = correct = 0.0
        for index in torch.arange(len(x)).split(self.batch_size):
            logits = self.network(x[index])
            loss += F.cross_entropy(logits, y[index], reduction="sum").item()
            correct += (logits.argmax(-1) == y[index]).sum().item()
        return loss / len(x), correct / len(x)


@dataclass
class AlternatingEpochs(Callback):
    """Times each epoch from its start to the start of the next, and runs the bare epochs in between."""

    bares: list[BareLoop]
    bare_seconds: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    started: float = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.bare_seconds:
            self.seconds.append(CLOCK() - self.started)
        with torch.random.fork_rng():
            self.bare_seconds.append([self._timed(bare) for bare in self.bares])
        self.started = CLOCK()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds.append(CLOCK() - self.started)

    @staticmethod
    def _timed(bare: BareLoop) -> float:
        started = CLOCK()
        bare.epoch()
        return CLOCK() - started


@dataclass(frozen=True)
class Cost:
    """Medians of the duration of an epoch in seconds, and of the ratios of neighboring epochs.

    Args:
        gridlight: an epoch of Gridlight.
        bare: an epoch of a bare loop, with the default Adam and with `fused=True`.
        ratios: of Gridlight to each bare loop.
        steps: number of steps of an epoch.
    """

    gridlight: float
    bare: tuple[float, ...]
    ratios: tuple[float, ...]
    steps: int


def measure(case: Case, epochs: int) -> Cost:
    """Train `epochs` timed epochs on each side, after one warm-up epoch."""
    with tempfile.TemporaryDirectory() as temporary:
        config = case.config(epochs + 1, Path(temporary))
        folder = RunFolder.create(Path(temporary) / "run", config.plain(), ["benchmark"])
        loggers = build_loggers(config.plain()["logger"], folder, config.plain())
        experiment = build(config, folder, loggers)
        data = experiment.datamodule
        train, val = data.split("train"), data.split("val")
        alternating = AlternatingEpochs(
            [BareLoop(build_model(config, data.spec), train, val, case.batch_size, fused) for fused in (False, True)]
        )
        experiment.trainer.callbacks.insert(0, alternating)  # type: ignore[attr-defined]
        experiment.trainer.fit(experiment.model, datamodule=data)
        close_loggers(loggers, 0)
        folder.finish({})
    ours, bares = alternating.seconds[1:], list(zip(*alternating.bare_seconds[1:], strict=True))
    ratios = tuple(median(a / b for a, b in zip(ours, bare, strict=True)) for bare in bares)
    return Cost(median(ours), tuple(map(median, bares)), ratios, len(data.loader("train")))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.epoch_cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=7, help="timed epochs of each side")
    parser.add_argument("--only", default="", help="run the cases with this text in their name")
    parser.add_argument("--cpu", action="store_true", help="measure processor time instead of wall-clock time")
    arguments = parser.parse_args()
    global CLOCK
    CLOCK = time.process_time if arguments.cpu else time.perf_counter
    time_of = "processor" if arguments.cpu else "clock"
    print(
        f"{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {today()}; {time_of} time; {load()}\n"
    )
    print(
        "| one epoch | batch | steps | bare PyTorch | with `fused=True` | Gridlight | ratios |\n"
        "|---|---:|---:|---:|---:|---:|---:|",
        flush=True,
    )
    for case in CASES:
        if arguments.only.lower() in case.name.lower():
            with redirect_stdout(StringIO()):  # the progress
                cost = measure(case, arguments.epochs)
            print(
                f"| {case.name} | {case.batch_size} | {cost.steps} | {cost.bare[0]:.3f} s | {cost.bare[1]:.3f} s "
                f"| {cost.gridlight:.3f} s | {cost.ratios[0]:.2f}, {cost.ratios[1]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
