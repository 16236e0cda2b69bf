"""A whole run in W&B, with the real client: the server gets the same numbers as the run folder."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from src.cli.sync import sync
from src.loggers.wandb.pending import find_pending
from src.loggers.wandb.reader import read_project
from src.run_store.predictions import load_predictions
from src.run_store.run_folder import RunFolder
from src.training.run import run
from tests.conftest import ROOT
from tests.loggers.wandb.recording import KEY, use

wandb = pytest.importorskip("wandb")
pytestmark = [pytest.mark.usefixtures("fresh_wandb"), pytest.mark.slow]


def _fail_at(server: Any, text: bytes, action: Callable[[], None]) -> None:
    """Call a function at the first request to a server that contains a text."""
    handle = server.handle

    def watch(method: str, path: str, body: bytes) -> Any:
        if text in path.encode() + body:
            server.handle = handle
            action()
        return handle(method, path, body)

    server.handle = watch


@pytest.mark.parametrize(
    "failure", [None, "offline", "dies with the first curve", "500 with it", "dies with the tables"]
)
def test_a_whole_run_is_uploaded(
    fast: Callable[..., list[str]], wandb_server: Any, monkeypatch: pytest.MonkeyPatch, failure: str | None
) -> None:
    """Immediately, or with a later sync if the run was recorded offline or the server failed."""
    use(wandb_server, monkeypatch, key=failure != "offline")
    if failure in ("dies with the first curve", "dies with the tables"):
        text = b"file_stream" if "curve" in failure else b"createArtifact("
        _fail_at(wandb_server, text, lambda: threading.Thread(target=wandb_server.die).start())
    elif failure == "500 with it":
        _fail_at(wandb_server, b"file_stream", lambda: setattr(wandb_server, "broken", True))
    monkeypatch.chdir(ROOT)
    overrides = fast("logger=wandb", "callbacks=[gradients,quiet]", "model=cnn", "scheduler=cosine")
    more = [
        "logger.wandb.log_model=true",
        "logger.wandb.group=a_group",
        "tags=[one,two]",
        "notes=why",
        "logger.wandb.project=tests",
    ]
    timeout = 2 if failure else 100
    result = run([*overrides, *more, "trainer.max_epochs=3", f"logger.wandb.finish_timeout={timeout}"], verbose=False)
    if failure:
        assert not any(stored.complete for stored in wandb_server.runs.values())
        wandb.teardown()  # as if the process had ended
        wandb_server.broken = False
        if wandb_server.http is None:
            wandb_server.revive()
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        assert sync([result.folder]) and not list(find_pending([result.folder]))
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
    assert read.predictions() == load_predictions(folder.path)
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
    plot = arrived.summary["plots/gradients"]
    name = plot["filenames"][0] if "filenames" in plot else plot["path"]
    assert arrived.files[name] == (folder.path / "plots/gradients.png").read_bytes()
    predictions = load_predictions(folder.path)
    assert predictions is not None
    table = arrived.table("test/examples")
    assert table["columns"] == ["image", "target", "prediction", "probability"]
    assert [row[1:] for row in table["data"]] == [list(example.values()) for example in predictions["examples"]]
    assert len(table["data"]) == 16
    counts = [row[2] for row in arrived.table("test/confusion_table")["data"]]
    assert counts == [count for row in predictions["confusion"] for count in row]


def _images(server: Any) -> None:
    tables = [artifact for artifact in server.artifacts.values() if artifact["artifactTypeName"] == "run_table"]
    bodies = [body for table in tables for body in table["files"].values()]
    assert sum(body.startswith(b"\x89PNG") for body in bodies) == 16


def _model(server: Any, folder: RunFolder) -> None:
    models = [
        artifact
        for artifact in server.artifacts.values()
        if artifact["artifactTypeName"] == "model" and artifact["committed"]
    ]
    (artifact,) = (model for model in models if "best" in {entry["alias"] for entry in model["aliases"]})
    weights = folder.checkpoint("best").read_bytes()
    assert weights in artifact["files"].values()
    manifest = json.loads(artifact["files"]["wandb_manifest.json"])
    digest = base64.b64encode(hashlib.md5(weights).digest()).decode()
    assert digest in {entry["digest"] for entry in manifest["contents"].values()}
