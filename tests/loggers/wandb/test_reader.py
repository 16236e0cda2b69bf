"""Reading runs from W&B, and reports, with the real client and a local server."""

import json
import math
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from src.compare import main as compare
from src.core.errors import UserError
from src.loggers.factory import build_loggers, close_loggers
from src.loggers.wandb.reader import WandbRun, _convert_run, _status, read_project
from src.loggers.wandb.report import build_report, save_report
from src.run_store.filters import flatten
from src.run_store.recorded_run import curves_of, recorded_run
from src.run_store.run_folder import RunFolder
from tests.loggers.wandb.recording import SETTINGS, begin, log, use

pytest.importorskip("wandb")
pytestmark = pytest.mark.usefixtures("fresh_wandb")


def record(path: Path, lr: float, losses: list[float], monitor: str = "val/loss", mode: str = "min") -> RunFolder:
    """Record a run with a test at its end; a None among the losses is a resume one step back."""
    config = {"seed": 3, "model": {"name": "mlp", "hidden_sizes": [8, 4]}, "optimizer": {"lr": lr}, "monitor": None}
    folder = RunFolder.create(path, config, ["train", "optimizer.lr=0.1"])
    folder.update(monitor=monitor, mode=mode, parameters=17)
    loggers = build_loggers({"wandb": SETTINGS}, folder, config)
    for epoch, loss in enumerate(losses):
        for logger in loggers:
            logger.log_metrics({"val/loss": loss, "val/accuracy": 1 - loss, "epoch": epoch}, step=10 * epoch + 9)
            logger.log_metrics({"train/loss": loss / 2, "lr": lr, "epoch": epoch}, step=10 * epoch + 9)
    for logger in loggers:
        logger.log_metrics({"test/loss": 0.5, "epoch": len(losses)}, step=10 * len(losses))
    folder.finish({"test/loss": 0.5})
    close_loggers(loggers, 0)
    return folder


def comparable(rows: Any) -> list[dict[str, Any]]:
    """Return rows without their time, and with a text in place of NaN, which is not equal to itself."""
    return [{key: "nan" if value != value else value for key, value in row.items() if key != "time"} for row in rows]


@pytest.mark.slow
def test_runs_are_read_as_they_were_recorded(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(wandb_server, monkeypatch)
    folders = [record(tmp_path / "one", 0.1, [0.9, 0.25, 0.5]), record(tmp_path / "two", 0.2, [0.9, math.nan])]
    folders.append(record(tmp_path / "three", 0.3, [0.9, 0.2], "val/accuracy", "max"))
    runs = read_project("local/tests")
    assert [run.name for run in runs] == ["one", "two", "three"]
    for run, folder in zip(runs, folders, strict=True):
        assert run.config == folder.config()
        assert comparable(run.rows) == comparable(folder.metrics())
        assert run.id == folder.record["wandb"]["id"] and run.url == folder.record["wandb"]["url"]
    first, second, third = (run.record for run in runs)
    assert (first["status"], first["value"], first["best_epoch"]) == ("finished", 0.25, 1)
    assert first["best"] == {"val/loss": 0.25, "val/accuracy": 0.75, "train/loss": 0.125, "lr": 0.1}
    assert first["final"] == {"test/loss": 0.5} and first["parameters"] == 17 and first["tags"] == ["a", "b"]
    assert second["value"] == 0.9 and [run.record["command"] for run in runs] == ["train optimizer.lr=0.1"] * 3
    assert (third["monitor"], third["mode"], third["value"]) == ("val/accuracy", "max", 0.8)


HOSTILE = ["NaN", "Infinity", float("inf"), 10**400, -1, "x", [1], {"a": 1}, None, True, 1.5]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: str(value)[:10])
@pytest.mark.parametrize("place", ["history", "summary", "config"])
def test_a_run_of_another_program_may_contain_anything(place: str, value: Any) -> None:
    steps = ("_step", "trainer/global_step", "epoch", "_timestamp", "val/loss")
    names = (
        "best_since",
        "mode",
        "monitor",
        "seconds",
        "parameters",
        "error",
        "command",
        "status",
        "_wandb",
        "test/loss",
    )
    history = [{"_step": 0, "val/loss": 0.5, "epoch": 0}]
    history += [{"_step": 1, "val/loss": 0.4, "epoch": 1, key: value} for key in steps if place == "history"]
    for name in names:
        entries = {name: value}
        run = SimpleNamespace(
            config=entries if place == "config" else {},
            summary=entries if place == "summary" else {},
            **{"id": "a", "name": "a", "url": "", "state": "finished", "created_at": None, "tags": None, "notes": None},
        )
        read = _convert_run(run, history)
        made = recorded_run("a", "", dict(flatten(read.config)), read.record, partial(curves_of, read.rows))
        assert made.curves["val/loss"].values and isinstance(made.record["error"], str | None)


def test_attention_maps_are_found_among_what_a_run_logged() -> None:
    logged = {"_type": "images/separated", "filenames": ["media/images/plots/attention-1-self_27_ab.png"]}
    other = {"plots/gradients": logged, "val/loss": 0.1, "plots/attention-2-self": {"_type": "image-file"}}
    run = WandbRun("a", "a", "", {}, {}, [], {"plots/attention-1-self": logged, **other}, str.encode)
    assert run.attention() == {"attention-1-self": b"media/images/plots/attention-1-self_27_ab.png"}
    missing = WandbRun("a", "a", "", {}, {}, [], {"plots/attention-1-self": logged}, lambda name: None)
    assert missing.attention() == {} and missing.predictions() is None


@pytest.mark.parametrize("text", [b"[1]", b'{"classes": 1}', b'{"examples": [{"target": 1}]}', b"{"])
def test_damaged_predictions_of_a_project_are_left_out(text: bytes) -> None:
    assert WandbRun("a", "a", "", {}, {}, [], {}, lambda name: text).predictions() is None
    whole = WandbRun("a", "a", "", {}, {}, [], {}, lambda name: b'{"classes": ["x"]}').predictions()
    assert whole == {"classes": ["x"], "confusion": None, "examples": []}


@pytest.mark.slow
def test_the_status_of_runs_is_that_of_their_folders(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failed, pruned and interrupted runs have the recorded status; a killed run has a status derived from W&B's state."""
    use(wandb_server, monkeypatch)
    for status in ("failed", "pruned", "interrupted"):
        folder, loggers, _ = begin(tmp_path / status)
        log(loggers, [1.0])
        folder.fail(RuntimeError("no more memory")) if status == "failed" else folder._end(status)
        close_loggers(loggers, 1)
    begin(tmp_path / "running")
    runs = {run.name: run.record for run in read_project("local/tests")}
    assert {name: record["status"] for name, record in runs.items()} == {name: name for name in runs}
    assert len(runs) == 4 and runs["failed"]["error"] == "RuntimeError: no more memory"
    for state, status in (("crashed", "interrupted"), ("killed", "interrupted"), ("failed", "failed")):
        assert _status(state, {}) == status
    assert _status("crashed", {"status": "finished"}) == "interrupted", "it was resumed, and killed then"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("local/nothing", "Could not find project nothing"),
        ("a/b/c", "a project of Weights & Biases is entity/project"),
        ("local/", "a project of Weights & Biases is entity/project"),
    ],
)
def test_invalid_projects_are_explained(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    use(wandb_server, monkeypatch)
    with pytest.raises(UserError, match=message):
        read_project(path)


def test_a_missing_key_or_server_is_reported(wandb_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use(wandb_server, monkeypatch, key=False)
    with pytest.raises(UserError, match="no key is configured"):
        read_project("local/tests")
    use(wandb_server, monkeypatch)
    wandb_server.die()
    with pytest.raises(UserError, match="cannot reach"):
        read_project("local/tests")


def test_a_report_shows_the_comparison(wandb_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces")
    use(wandb_server, monkeypatch)
    wandb_server.run("one").project = "tests"
    keys = ["optimizer.lr", "model.name"]
    report = build_report(
        "local", "tests", "val/loss", "min", keys, ["val/accuracy"], "| rank |\n|---|\n| 1 |", ["a1", "b2"]
    )
    address = save_report(report)
    assert address.startswith(f"{wandb_server.url}/local/tests/reports/")
    (view,) = wandb_server.views
    assert (view["entityName"], view["projectName"], view["type"]) == ("local", "tests", "runs")
    spec = view["spec"]
    grids = [block for block in json.loads(spec)["blocks"] if block["type"] == "panel-grid"]
    panels = [panel for grid in grids for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]]
    by_type = {panel["viewType"]: panel["config"] for panel in panels}
    axes = [column["accessor"] for column in by_type["Parallel Coordinates Plot"]["columns"]]
    assert axes == ["config:optimizer.value.lr", "config:model.value.name", "summary:best/val/loss"]
    curves = {panel["config"]["metrics"][0] for panel in panels if panel["viewType"] == "Run History Line Plot"}
    assert curves == {"val/loss", "train/loss", "val/accuracy", "lr"}
    assert {panel["config"]["xAxis"] for panel in panels if panel["viewType"] == "Run History Line Plot"} == {
        "trainer/global_step"
    }
    for grid in grids:
        (runset,) = grid["metadata"]["runSets"]
        assert '"name"' in json.dumps(runset["filters"]) and '["a1", "b2"]' in json.dumps(runset["filters"])
    assert "| rank |" in spec and "summary:best/val/loss" in spec and spec.count("config:optimizer.value.lr") > 1


def test_test_metrics_have_their_own_name_in_a_report(wandb_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces")
    use(wandb_server, monkeypatch)
    wandb_server.run("one").project = "tests"
    save_report(build_report("local", "tests", "test/accuracy", "max", ["optimizer.lr"]))
    spec = wandb_server.views[0]["spec"]
    assert "summary:test/accuracy" in spec and "best/test" not in spec and '"val/accuracy"' in spec


def test_a_report_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(UserError, match=r"-e .\[reports\]"):
        build_report("local", "tests", "val/loss", "min", [])


def test_compare_ranks_a_project_and_makes_its_report(
    tmp_path: Path, wandb_server: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("wandb_workspaces")
    use(wandb_server, monkeypatch)
    record(tmp_path / "one", 0.1, [0.9, 0.25])
    record(tmp_path / "two", 0.2, [0.5])
    compare(["--wandb", "local/tests", "--report"])
    out = capsys.readouterr().out
    assert re.findall(r"^ *(\d) +(0\.\d+) +(0\.\d) ", out, re.M) == [("1", "0.25", "0.1"), ("2", "0.5", "0.2")]
    assert f"report: {wandb_server.url}/local/tests/reports/" in out
    (view,) = wandb_server.views
    assert "| 1 | 0.25 | 0.1 | one |" in view["spec"] and "config:optimizer.value.lr" in view["spec"]


@pytest.mark.parametrize("argv", [[], ["somewhere", "--wandb", "a/b"], ["somewhere", "--report"]])
def test_compare_accepts_a_folder_or_a_project(argv: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        compare(argv)
    assert stop.value.code == 2 and "--wandb" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", None, ["a"], "a\\b", "C:/x", "a//b"])
def test_a_file_name_of_the_server_that_leaves_its_folder_is_not_requested(name: Any) -> None:
    class Run:
        def file(self, name: str) -> Any:
            raise AssertionError(name)

    from src.loggers.wandb import reader

    assert not reader._is_plain_path(name) and reader._file(Run(), name) is None
    assert reader._is_plain_path("media/images/a.png")
