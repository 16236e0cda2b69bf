"""The table of a run for spreadsheets."""

import csv
from pathlib import Path
from typing import Any

import pytest

from src.core.errors import UserError
from src.loggers.factory import build_loggers, close_loggers
from src.run_store.run_folder import RunFolder

TARGET = "lightning.pytorch.loggers.CSVLogger"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", {"seed": 0}, [])


def build(folder: RunFolder, **settings: Any) -> list[Any]:
    return build_loggers({"csv": {"_target_": TARGET, **settings}}, folder, {})


def log(loggers: list[Any], step: int, **metrics: float) -> None:
    for logger in loggers:
        logger.log_metrics({"epoch": step, **metrics}, step)
        logger.save()


def test_a_resumed_run_keeps_the_rows_before(folder: RunFolder) -> None:
    for start in (0, 2):
        loggers = build(folder, name="csv", version="")
        for step in (start, start + 1):
            log(loggers, step, **{"val/loss": 1.0 + step, "-x": 2.0})
        close_loggers(loggers, 0)
    with (folder.path / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["val/loss"] for row in rows] == ["1.0", "2.0", "3.0", "4.0"]
    assert list(rows[0]) == ["epoch", "step", "'-x", "val/loss"]


@pytest.mark.parametrize("settings", [{}, {"name": None}, {"version": 3, "prefix": "p"}, {"save_dir": None}])
def test_settings_of_lightning_are_accepted(settings: dict[str, Any], folder: RunFolder) -> None:
    loggers = build(folder, **settings)
    log(loggers, 0, loss=1.0)
    close_loggers(loggers, 0)
    assert len(list(folder.path.rglob("metrics.csv"))) == 1


def test_the_table_is_written_during_training(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.loggers.csv_table._INTERVAL", 0.0)
    log(build(folder, name="csv", version=""), 0, loss=1.0)
    assert (folder.path / "csv" / "metrics.csv").is_file()


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_link_in_place_of_its_folder_is_not_followed(when: str, folder: RunFolder, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "metrics.csv").write_text("keep")
    table = folder.path / "csv"
    if when == "between":
        loggers = build(folder, name="csv", version="")
        log(loggers, 0, loss=1.0)
        table.rmdir()
    table.symlink_to(victim)
    with pytest.raises(UserError, match="this is a link"):
        close_loggers(loggers if when == "between" else build(folder, name="csv", version=""), 0)
    assert (victim / "metrics.csv").read_text() == "keep" and len(list(victim.iterdir())) == 1


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\0b"])
def test_its_folder_is_below_the_run_folder(name: str, folder: RunFolder) -> None:
    with pytest.raises(UserError):
        build(folder, name=name)
