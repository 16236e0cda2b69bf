"""The logger of metrics.jsonl, and other loggers."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from src.core.errors import UserError
from src.loggers.factory import build_loggers, close_loggers, sync_hint
from src.loggers.jsonl import RunLogger
from src.run_store.metrics_file import read_metrics
from src.run_store.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {"seed": 0}, [])


def lines(folder: RunFolder) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (folder.path / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_every_log_is_on_disk_at_once(folder: RunFolder) -> None:
    logger = RunLogger(folder)
    logger.log_metrics({"train/loss": torch.tensor(0.5), "epoch": 0.0}, step=3)
    logger.log_metrics({"val/loss": float("inf"), "val/f1": float("nan"), "epoch": 0}, step=3)
    first, second = lines(folder)
    assert list(first) == ["step", "epoch", "train/loss", "time"]
    assert (first["step"], first["epoch"], first["train/loss"]) == (3, 0, 0.5)
    assert second["val/loss"] is None and second["val/f1"] is None
    assert math.isnan(read_metrics(folder.path)[1]["val/loss"])


def test_a_resumed_run_appends_and_marks_its_first_line(folder: RunFolder) -> None:
    logger = RunLogger(folder)
    for step in (4, 8, 12):
        logger.log_metrics({"val/loss": 1.0}, step=step)
    logger.finalize("failed")
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 16, "val')
    folder.interrupt()

    again = RunFolder.open(folder.path)
    again.resume()
    logger = RunLogger(again)
    logger.log_metrics({"val/loss": 2.0}, step=12)
    logger.finalize("success")
    logger.log_metrics({"test/loss": 3.0}, step=16)
    values = [(e["step"], e.get("val/loss", e.get("test/loss"))) for e in read_metrics(folder.path)]
    assert values == [(4, 1.0), (8, 1.0), (12, 2.0), (16, 3.0)]


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"anything": 1})
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).pow(2).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/loss", 0.5**self.current_epoch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_logs_to_all_loggers(folder: RunFolder) -> None:
    target = "lightning.pytorch.loggers.CSVLogger"
    config = {"csv": {"_target_": target, "name": "csv", "version": ""}, "wandb": None}
    loggers = build_loggers(config, folder, {})
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=loggers,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = DataLoader(torch.ones(4, 1), 2)
    trainer.fit(Net(), data, data)
    close_loggers(loggers, 0)
    assert sync_hint(loggers) is None

    entries = read_metrics(folder.path)
    assert [(e["epoch"], e["step"], e["val/loss"]) for e in entries] == [(0, 1, 1.0), (1, 3, 0.5), (2, 5, 0.25)]
    with (folder.path / "csv" / "metrics.csv").open() as file:
        assert [float(row["val/loss"]) for row in csv.DictReader(file)] == [1.0, 0.5, 0.25]
    assert trainer.log_dir == str(folder.path)


def test_save_dir_can_be_chosen(folder: RunFolder, tmp_path: Path) -> None:
    config = {"csv": {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": str(tmp_path / "else")}}
    _, logger = build_loggers(config, folder, {})
    assert isinstance(logger, CSVLogger) and logger.save_dir == str(tmp_path / "else")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"csv": {"_target_": "lightning.pytorch.loggers.CSVLoger"}}, "CSVLogger"),
        ({"csv": {"_target_": "lightning.pytorch.Trainer"}}, "logger.csv._target_"),
        ({"csv": {"_target_": "lightning.pytorch.loggers.CSVLogger", "colour": "red"}}, "colour"),
        ({"csv": {"name": "csv"}}, "logger.csv._target_"),
    ],
)
def test_errors_name_the_key(folder: RunFolder, config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_loggers(config, folder, {})
