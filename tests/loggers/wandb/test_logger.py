"""The logger of Weights & Biases, with the real client and a local server: it records, and never stops a run."""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from src.cli.sync import sync
from src.loggers.factory import close_loggers, sync_hint
from src.loggers.wandb.logger import WeightsAndBiases
from src.loggers.wandb.pending import sessions
from tests.loggers.wandb.recording import CONFIG, KEY, begin, log, use

pytest.importorskip("wandb")
pytestmark = pytest.mark.usefixtures("fresh_wandb")


def warnings(caplog: Any) -> list[str]:
    """Return Gridlight's warnings; wandb has its own log."""
    records = [record for record in caplog.records if record.name.startswith("src.")]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


def test_the_best_value_so_far_is_one_of_the_average_once_there_is_one(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(wandb_server, monkeypatch)
    folder, loggers, logger = begin(tmp_path / "run")
    folder.update(monitor="val/loss", mode="min")
    log(loggers, [2.0, 1.0])
    folder.update(best_since=2)
    log(loggers, [4.0, 3.0, 5.0], first=2)
    assert logger.experiment.summary["best/val/loss"] == 3.0 and logger.experiment.summary["best_epoch"] == 3
    close_loggers(loggers, 0)


@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_run_is_uploaded_online(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any, exit_code: int
) -> None:
    use(wandb_server, monkeypatch)
    folder, loggers, logger = begin(tmp_path / "run")
    assert isinstance(logger, WeightsAndBiases) and logger.mode == "online"
    log(loggers, [3.0, 1.0, 2.0])
    folder.update(best={"val/loss": 1.0}, best_epoch=1, parameters=7)
    close_loggers(loggers, exit_code)

    (run_id,) = wandb_server.runs
    run = wandb_server.runs[run_id]
    assert folder.record["wandb"] == {
        "id": run_id,
        "mode": "online",
        "url": f"{wandb_server.url}/local/tests/runs/{run_id}",
        "complete": True,
    }
    assert {key: run.config[key] for key in CONFIG} == CONFIG
    assert run.values("val/loss") == [3.0, 1.0, 2.0] and run.values("trainer/global_step") == [0, 1, 2]
    assert run.summary["val/loss"] == 2.0 and run.summary["best/val/loss"] == 1.0
    assert run.summary["best_epoch"] == 1 and run.summary["parameters"] == 7
    assert (run.complete, run.exit_code) == (True, exit_code)
    sent = run.info
    assert (sent["groupName"], sent["tags"], sent["jobType"], sent["notes"]) == ("lr", ["a", "b"], "train", "why")
    assert sent["displayName"] == "run" and sent["project"] == "tests"
    assert (folder.path / "wandb").is_dir() and not (tmp_path / "wandb").exists()
    assert "WANDB_MODE" not in os.environ and sync_hint(loggers) is None
    shown = capfd.readouterr()
    assert "wandb" not in shown.out + shown.err, "it is quiet"


def test_the_runs_of_a_process_are_separate(tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use(wandb_server, monkeypatch)
    for name, value, exit_code in (("one", 1.0, 0), ("two", 2.0, 1), ("three", 3.0, 0)):
        _, loggers, _ = begin(tmp_path / name)
        log(loggers, [value])
        close_loggers(loggers, exit_code)
    found = {run.info["displayName"]: (run.values("val/loss"), run.exit_code) for run in wandb_server.runs.values()}
    assert found == {"one": ([1.0], 0), "two": ([2.0], 1), "three": ([3.0], 0)}


def test_a_resumed_run_continues_its_wandb_run(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(wandb_server, monkeypatch)
    folder, loggers, _ = begin(tmp_path / "run")
    log(loggers, [3.0, 2.0])
    close_loggers(loggers, 1)
    folder.interrupt()
    folder, loggers, _ = begin(tmp_path / "run")
    log(loggers, [1.0], first=2)
    close_loggers(loggers, 0)
    (run,) = wandb_server.runs.values()
    assert run.values("val/loss") == [3.0, 2.0, 1.0] and run.exit_code == 0


@pytest.mark.slow
def test_without_a_key_it_is_offline_and_syncs_later(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(wandb_server, monkeypatch, key=False)
    folder, loggers, logger = begin(tmp_path / "run")
    assert logger.mode == "offline" and "WANDB_MODE" not in os.environ
    log(loggers, [3.0, 1.0])
    close_loggers(loggers, 0)
    assert wandb_server.requests == 0

    assert sync_hint(loggers) == "python -m src.sync run"
    folder.interrupt()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert sync([folder.path]) and sync([folder.path])
    run = wandb_server.runs[folder.record["wandb"]["id"]]
    assert run.values("val/loss") == [3.0, 1.0] and run.exit_code == 0
    assert {key: run.config[key] for key in CONFIG} == CONFIG
    assert sync_hint(loggers) is None, "there is nothing left to sync"


@pytest.mark.parametrize(
    ("mode", "key", "expected"),
    [("offline", True, "offline"), ("dryrun", True, "offline"), ("disabled", True, None), ("online", False, "offline")],
)
def test_wandb_mode_is_respected(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, mode: str, key: bool, expected: str | None
) -> None:
    use(wandb_server, monkeypatch, key)
    monkeypatch.setenv("WANDB_MODE", mode)
    _, loggers, logger = begin(tmp_path / "run")
    assert (None if logger is None else logger.mode) == expected
    close_loggers(loggers, 0)
    assert wandb_server.requests == 0 and os.environ["WANDB_MODE"] == mode


def test_a_key_in_netrc_is_found(tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use(wandb_server, monkeypatch, key=False)
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {wandb_server.url.removeprefix('http://')}\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    _, loggers, logger = begin(tmp_path / "run")
    assert logger.mode == "online"
    close_loggers(loggers, 0)


@pytest.mark.parametrize("trouble", ["dead", pytest.param("broken", marks=pytest.mark.slow)])
def test_a_failing_server_does_not_stop_a_run(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any, trouble: str
) -> None:
    use(wandb_server, monkeypatch)
    wandb_server.broken = True
    if trouble == "dead":
        wandb_server.die()
    started = time.monotonic()
    folder, loggers, logger = begin(tmp_path / "run", init_timeout=1)
    assert logger.mode == "offline" and folder.record["wandb"]["mode"] == "offline"
    log(loggers, [3.0])
    close_loggers(loggers, 0)
    assert time.monotonic() - started < 15
    (warning,) = warnings(caplog)
    assert "the run is recorded offline" in warning
    assert sync_hint(loggers) == "python -m src.sync run"
    (session,) = sessions(folder.path)
    assert session.parent.name.startswith("offline-"), "nothing is left of the failed attempt"

    started = time.monotonic()
    _, loggers, logger = begin(tmp_path / "next", init_timeout=60)
    close_loggers(loggers, 0)
    assert logger.mode == "offline" and time.monotonic() - started < 10, "the next run of a sweep does not wait again"


@pytest.mark.slow
def test_a_server_that_dies_during_a_run(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    use(wandb_server, monkeypatch)
    folder, loggers, logger = begin(tmp_path / "run", finish_timeout=1)
    log(loggers, [3.0])
    wandb_server.broken = True
    log(loggers, [2.0], first=1)
    started = time.monotonic()
    close_loggers(loggers, 0)
    assert time.monotonic() - started < 10
    assert "finish failed" in caplog.text
    assert sync_hint(loggers) == "WANDB_ENTITY=local python -m src.sync run"
    folder.finish({})
    logger.experiment.finish()
    wandb_server.broken = False
    assert sync([folder.path])
    run = wandb_server.runs[logger.version]
    assert run.values("val/loss") == [3.0, 2.0] and run.exit_code == 0


def test_errors_inside_wandb_are_warned_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    _, loggers, logger = begin(tmp_path / "run")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("inside wandb")

    with monkeypatch.context() as patched:
        for name in ("log", "finish"):
            patched.setattr(logger.experiment, name, fail)
        log(loggers, [1.0, 2.0, 3.0])
        logger.log_image("image", "no list")
        close_loggers(loggers, 0)
    assert [message.split(" failed")[0].split(": ")[1] for message in warnings(caplog)] == [
        "log_metrics",
        "log_image",
        "finish",
    ]
    logger.experiment.finish()


@pytest.mark.parametrize("where", ["import", "init"])
def test_a_broken_wandb_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, where: str) -> None:
    import wandb

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no such library")

    with monkeypatch.context() as patched:
        if where == "import":
            patched.setitem(sys.modules, "wandb", None)
        else:
            patched.setattr(wandb, "init", fail)
        folder, loggers, logger = begin(tmp_path / "run")
    assert logger is None and "left out" in caplog.text
    if where == "init":
        assert folder.record["wandb"]["id"], "known before wandb is asked, for the day it works again"
    log(loggers, [1.0])
    close_loggers(loggers, 0)
    assert sync_hint(loggers) is None


def test_an_agent_names_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "fromagent")
    for name, same in (("one", True), ("two", False)):
        folder, loggers, _ = begin(tmp_path / name)
        close_loggers(loggers, 0)
        assert (folder.record["wandb"]["id"] == "fromagent") is same


def test_processes_of_higher_rank_record_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", 1)
    folder, loggers, logger = begin(tmp_path / "run")
    log(loggers, [1.0])
    assert logger is None and not (folder.path / "wandb").exists() and not (folder.path / "metrics.jsonl").exists()


def test_the_id_of_a_run_may_be_part_of_a_file_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_ID", "a b")
    _, loggers, _ = begin(tmp_path / "run")
    assert len(loggers) == 1 and "WANDB_RUN_ID='a b'" in caplog.text
    close_loggers(loggers, 0)
