"""Short runs that are recorded with Weights & Biases, for its tests."""

from pathlib import Path
from typing import Any

import pytest

from src.loggers.factory import build_loggers
from src.run_store.run_folder import RunFolder

KEY = "k" * 40
CONFIG = {"seed": 0, "model": {"name": "mlp", "hidden_sizes": [128, 64]}, "optimizer": {"lr": 1e-3}}
SETTINGS = {
    "project": "tests",
    "tags": ["a", "b"],
    "group": "lr",
    "job_type": "train",
    "notes": "why",
    "init_timeout": 120,
}


def begin(path: Path, **changes: Any) -> tuple[RunFolder, list[Any], Any]:
    config = CONFIG | {"logger": {"wandb": SETTINGS | changes}}
    folder = RunFolder.create(path, config, []) if not path.exists() else RunFolder.open(path)
    if "seconds" in folder.record and folder.record["status"] == "interrupted":
        folder.resume()
    loggers = build_loggers({"wandb": SETTINGS | changes}, folder, config)
    return folder, loggers, loggers[1] if len(loggers) > 1 else None


def log(loggers: list[Any], values: list[float], first: int = 0) -> None:
    for step, value in enumerate(values, start=first):
        for logger in loggers:
            logger.log_metrics({"val/loss": value, "epoch": step}, step=step)


def use(server: Any, monkeypatch: pytest.MonkeyPatch, key: bool = True) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_PROJECT", str(SETTINGS["project"]))
    if key:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
