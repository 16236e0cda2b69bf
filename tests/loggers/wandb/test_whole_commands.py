"""A whole run in W&B, by the real client: what arrives is what the run folder says, number for number."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from src.cli.sync import sync
from src.loggers.wandb.pending import find
from src.loggers.wandb.reader import read_project
from src.run_store.predictions import read_answers
from src.run_store.run_folder import RunFolder
from src.training.run import run
from tests.conftest import ROOT
from tests.loggers.wandb.recording import KEY, use

wandb = pytest.importorskip("wandb")
pytestmark = [pytest.mark.usefixtures("fresh_wandb"), pytest.mark.slow]


def _trouble(server: Any, when: bytes, what: Callable[[], None]) -> None:
    """Let something befall a server with the first request that holds some words."""
    handle = server.handle

    def watched(method: str, path: str, body: bytes) -> Any:
        if when in path.encode() + body:
            server.handle = handle
            what()
        return handle(method, path, body)

    server.handle = watched


@pytest.mark.parametrize(
    "trouble", [None, "offline", "dies with the first curve", "500 with it", "dies with the tables"]
)
def test_a_whole_run_arrives(
    fast: Callable[..., list[str]], wandb_server: Any, monkeypatch: pytest.MonkeyPatch, trouble: str | None
) -> None:
    """At once, or, where it was recorded offline or the server was in trouble, with a later sync."""
    use(wandb_server, monkeypatch, key=trouble != "offline")
    if trouble in ("dies with the first curve", "dies with the tables"):
        when = b"file_stream" if "curve" in trouble else b"createArtifact("
        _trouble(wandb_server, when, lambda: threading.Thread(target=wandb_server.die).start())
    elif trouble == "500 with it":
        _trouble(wandb_server, b"file_stream", lambda: setattr(wandb_server, "broken", True))
    monkeypatch.chdir(ROOT)
    words = fast("logger=wandb", "callbacks=[gradients,quiet]", "model=cnn", "scheduler=cosine")
    more = [
        "logger.wandb.log_model=true",
        "logger.wandb.group=a_group",
        "tags=[one,two]",
        "notes=why",
        "logger.wandb.project=tests",
    ]
    patience = 2 if trouble else 100
    result = run([*words, *more, "trainer.max_epochs=3", f"logger.wandb.finish_timeout={patience}"], verbose=False)
    if trouble:
        assert not any(stored.complete for stored in wandb_server.runs.values())
        wandb.teardown()  # the client's process ends with ours
        wandb_server.broken = False
        if wandb_server.http is None:
            wandb_server.revive()
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        assert sync([result.folder]) and not list(find([result.folder]))
    folder = RunFolder.open(result.folder)
    (arrived,) = wandb_server.runs.values()
    _facts(arrived, folder)
    _media(arrived, folder)
    _images(wandb_server)
    _model(wandb_server, folder)
    (read,) = read_project("local/tests")
    untimed = [
        [{key: value for key, value in row.items() if key != "time"} for row in rows]
        for rows in (read.rows, folder.metrics())
    ]
    assert untimed[0] == untimed[1]
    assert read.config == folder.config() and read.record["status"] == "finished"
    assert read.answers() == read_answers(folder.path)
    assert read.record["best"] == folder.record["best"] and read.record["final"] == folder.record["final"]


def _facts(arrived: Any, folder: RunFolder) -> None:
    record = folder.record
    assert arrived.complete and arrived.exit_code == 0
    info = arrived.info
    assert (info["groupName"], info["jobType"], info["tags"]) == ("a_group", "train", ["one", "two"])
    assert {key: arrived.config[key] for key in folder.config()} == folder.config()
    for name, value in record["best"].items():
        assert arrived.summary[f"best/{name}"] == value
    assert (
        arrived.summary["best_epoch"] == record["best_epoch"] and arrived.summary["parameters"] == record["parameters"]
    )
    assert arrived.summary["test/accuracy"] == record["final"]["test/accuracy"]
    rates = arrived.values("lr")
    assert len(rates) == 3 and rates[0] > rates[-1], "the schedule is a curve"
    assert any("system.memory_percent" in row for row in arrived.events.values()), "the machine is a curve"
    metrics = {metric.get("1"): metric for metric in arrived.internal["m"]}
    assert "trainer/global_step" in metrics and any(metric.get("2") == "*" for metric in arrived.internal["m"])


def _media(arrived: Any, folder: RunFolder) -> None:
    picture = arrived.summary["plots/gradients"]
    name = picture["filenames"][0] if "filenames" in picture else picture["path"]
    assert arrived.files[name] == (folder.path / "plots/gradients.png").read_bytes()
    answers = read_answers(folder.path)
    assert answers is not None
    table = arrived.table("test/examples")
    assert table["columns"] == ["picture", "truth", "prediction", "probability"]
    assert [row[1:] for row in table["data"]] == [list(example.values()) for example in answers["examples"]]
    assert len(table["data"]) == 16
    counts = [row[2] for row in arrived.table("test/confusion_table")["data"]]
    assert counts == [count for row in answers["confusion"] for count in row]


def _images(server: Any) -> None:
    tables = [found for found in server.artifacts.values() if found["artifactTypeName"] == "run_table"]
    bodies = [body for table in tables for body in table["files"].values()]
    assert sum(body.startswith(b"\x89PNG") for body in bodies) == 16


def _model(server: Any, folder: RunFolder) -> None:
    models = [
        found for found in server.artifacts.values() if found["artifactTypeName"] == "model" and found["committed"]
    ]
    (artifact,) = (model for model in models if "best" in {entry["alias"] for entry in model["aliases"]})
    weights = folder.best_checkpoint.read_bytes()
    assert weights in artifact["files"].values()
    manifest = json.loads(artifact["files"]["wandb_manifest.json"])
    digest = base64.b64encode(hashlib.md5(weights).digest()).decode()
    assert digest in {entry["digest"] for entry in manifest["contents"].values()}
