"""What an epoch of Gridlight costs, in times of a bare PyTorch loop: python -m benchmarks.epoch_cost [--epochs 7]

Both sides train the same network with Adam over batches indexed from one tensor, in one process and in turns: a bare
epoch, then one of Gridlight, and so on. Gridlight's side is the whole path of a run: Lightning, default callbacks
(early stopping, best and last checkpoint written in every epoch, progress), metrics, metrics.jsonl; without W&B. The
bare side sums nothing and saves nothing. Both validate on the same batches after every epoch (bare: forward pass, loss,
accuracy).
Figures are medians; the first epoch of each side warms up and is left out.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf
from torch import Tensor, nn

from benchmarks.machine import machine, today
from src.batches import Batch, LabelledBatch
from src.config.check import check
from src.config.compose import compose
from src.config.schema import Config
from src.datamodules.base import DataModule
from src.datamodules.digits import Digits
from src.experiment import build
from src.spec import DataSpec
from src.tracking.run_folder import RunFolder
from src.tracking.run_logger import build_loggers, close_loggers

CLASSES = 10


class RandomImages(DataModule):
    """Noise in the shape of Fashion-MNIST with random labels: 60,000 images 28×28, and 1,280 for validation."""

    task = "classification"
    inputs = "image"

    def load(self) -> dict[str, Batch]:
        generator = torch.Generator().manual_seed(0)
        sizes = {"train": 60_000, "val": 1_280, "test": 1_280}
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
        raise AssertionError("noise is not predicted from")


@dataclass(frozen=True)
class Case:
    """One network on one data source.

    Args:
        name: as printed.
        data: class of the datamodule.
        hidden_sizes: of the network.
        batch_size: of both sides.
    """

    name: str
    data: type[DataModule]
    hidden_sizes: tuple[int, ...]
    batch_size: int

    def config(self, epochs: int, outputs: Path) -> Config:
        """Return the config of a default run, with these data."""
        cfg = compose(["model=mlp", "trainer=cpu", "logger=none", f"model.hidden_sizes={[*self.hidden_sizes]}"])
        OmegaConf.set_struct(cfg, False)
        cfg.datamodule = {
            "name": "benchmark",
            "_target_": f"{self.data.__module__}.{self.data.__name__}",
            "batch_size": self.batch_size,
            "default_epochs": epochs,
            "seed": 0,
        }
        if self.data is Digits:
            cfg.datamodule.update({"split_seed": 0, "val_fraction": 0.15, "test_fraction": 0.15})
        cfg.regularization.early_stopping_patience = epochs  # it watches and never stops
        cfg.paths.outputs = str(outputs)
        return check(cfg)


CASES = (
    Case("MLP 784-256-128-10, 60,000 images 28×28", RandomImages, (256, 128), 128),
    Case("MLP 64-128-64-10, digits (1,259 images 8×8)", Digits, (128, 64), 64),
)


@dataclass
class BareLoop:
    """What a person writes without any framework, for the same network, data and optimizer."""

    network: nn.Module
    train: Batch
    val: Batch
    batch_size: int

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)

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
class InTurns(Callback):
    """Times each epoch from its start to the start of the next, and runs a bare epoch in between."""

    bare: BareLoop
    bare_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    started: float = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = time.perf_counter()
        if self.bare_seconds:
            self.seconds.append(now - self.started)
        with torch.random.fork_rng():
            now = time.perf_counter()
            self.bare.epoch()
            self.bare_seconds.append(time.perf_counter() - now)
        self.started = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self.started)


@dataclass(frozen=True)
class Cost:
    """Medians of an epoch, in seconds, and the median of the ratios of neighbours."""

    gridlight: float
    bare: float
    ratio: float
    steps: int


def measure(case: Case, epochs: int) -> Cost:
    """Train `epochs` timed epochs on each side, after one that warms up."""
    with tempfile.TemporaryDirectory() as temporary:
        config = case.config(epochs + 1, Path(temporary))
        folder = RunFolder.create(Path(temporary) / "run", config.plain(), ["benchmark"])
        loggers = build_loggers(config.plain()["logger"], folder, config.plain())
        experiment = build(config, folder, loggers)
        data = experiment.datamodule
        bare = BareLoop(_network(case, data.spec), data.split("train"), data.split("val"), case.batch_size)
        turns = InTurns(bare)
        experiment.trainer.callbacks.insert(0, turns)  # type: ignore[attr-defined]
        experiment.trainer.fit(experiment.model, datamodule=data)
        close_loggers(loggers, 0)
        folder.finish({})
    ours, bares = turns.seconds[1:], turns.bare_seconds[1:]
    ratios = [a / b for a, b in zip(ours, bares, strict=True)]
    return Cost(median(ours), median(bares), median(ratios), len(data.loader("train")))


def _network(case: Case, spec: DataSpec) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    width = spec.input_size
    for hidden in case.hidden_sizes:
        layers += [nn.Linear(width, hidden), nn.Tanh()]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.epoch_cost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=7, help="timed epochs of each side")
    epochs = parser.parse_args().epochs
    rows = [(case, measure(case, epochs)) for case in CASES]
    print("\n| one epoch | batch | steps | bare PyTorch | Gridlight | ratio | machine | torch, date |")
    print("|---|---:|---:|---:|---:|---:|---|---|")
    where = f"{machine()}, {torch.get_num_threads()} threads"
    for case, cost in rows:
        print(
            f"| {case.name} | {case.batch_size} | {cost.steps} | {cost.bare:.3f} s | {cost.gridlight:.3f} s "
            f"| {cost.ratio:.2f} | {where} | {torch.__version__}, {today()} |"
        )


if __name__ == "__main__":
    main()
