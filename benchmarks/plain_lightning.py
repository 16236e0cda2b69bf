"""Baseline without Gridlight: Lightning under Hydra, a sweep with Hydra's basic launcher, in one process.

    python -m benchmarks.plain_lightning -m lr=1e-3,1e-2 weight_decay=0,1e-4

The network, data, optimizer, metrics and files are those of the Gridlight sweep in benchmarks.sweep_throughput: MLP
64-128-64-10 with tanh on digits, batches of 64, Adam; validation loss and accuracy, and the best and the last checkpoint, in
every epoch; metrics in a file; the best weights are tested. Progress bar and summary, which cost time, are off.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import hydra
import lightning as L
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy


@dataclass
class Settings:
    lr: float = 1e-3
    weight_decay: float = 0.0
    epochs: int = 10
    seed: int = 0


ConfigStore.instance().store(name="settings", node=Settings)


class Classifier(L.LightningModule):
    def __init__(self, lr: float, weight_decay: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10)
        )
        self.loss = nn.CrossEntropyLoss()
        self.accuracy = nn.ModuleDict({split: MulticlassAccuracy(10, average="micro") for split in ("val", "test")})

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        loss: Tensor = self.loss(self.network(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self._measure("val", batch)

    def test_step(self, batch: list[Tensor], index: int) -> None:
        self._measure("test", batch)

    def _measure(self, split: str, batch: list[Tensor]) -> None:
        logits = self.network(batch[0])
        self.accuracy[split](logits, batch[1])
        self.log(f"{split}/loss", self.loss(logits, batch[1]))
        self.log(f"{split}/accuracy", self.accuracy[split])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"], weight_decay=self.hparams["weight_decay"])


def loaders(batch_size: int = 64) -> dict[str, DataLoader]:
    """Return the three splits, standardized as in Gridlight."""
    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.15, random_state=0, stratify=y)
    x, x_val, y, y_val = train_test_split(x, y, test_size=0.15 / 0.85, random_state=0, stratify=y)
    mean, deviation = x.mean(), x.std()
    parts = {"train": (x, y), "val": (x_val, y_val), "test": (x_test, y_test)}
    return {
        name: DataLoader(
            TensorDataset(torch.tensor((a - mean) / deviation, dtype=torch.float32), torch.tensor(b)),
            batch_size,
            shuffle=name == "train",
        )
        for name, (a, b) in parts.items()
    }


@hydra.main(config_path=None, config_name="settings", version_base="1.3")
def main(settings: Settings) -> float:
    warnings.simplefilter("ignore")
    L.seed_everything(settings.seed, verbose=False)
    folder = Path(HydraConfig.get().runtime.output_dir)
    data = loaders()
    trainer = L.Trainer(
        max_epochs=settings.epochs,
        accelerator="cpu",
        logger=CSVLogger(str(folder), name="", version=""),
        callbacks=[ModelCheckpoint(folder, "best", monitor="val/loss", save_last=True)],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(Classifier(settings.lr, settings.weight_decay), data["train"], data["val"])
    trainer.test(dataloaders=data["test"], ckpt_path="best", weights_only=False, verbose=False)
    return float(trainer.callback_metrics["test/accuracy"])


if __name__ == "__main__":
    main()
