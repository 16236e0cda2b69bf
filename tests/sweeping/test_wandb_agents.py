"""``wandb sweep`` and ``wandb agent``, unmodified, against a server on the loopback device."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from src.config.groups import SWEEPS
from src.loggers.wandb.reader import read_project
from src.run_store.run_folder import RunFolder
from tests.conftest import ROOT
from tests.loggers.wandb.conftest import fresh_wandb, wandb_server  # noqa: F401
from tests.loggers.wandb.recording import KEY, use

pytest.importorskip("wandb")
pytestmark = [pytest.mark.usefixtures("fresh_wandb"), pytest.mark.slow]


def wandb(*overrides: str) -> str:
    """Run the client's command from the repository's root, and return what it printed."""
    tools = Path(sys.executable).parent
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    environment |= {"PATH": f"{tools}:{os.environ['PATH']}", "WANDB_PROJECT": "tests"}
    overrides = (str(tools / "wandb"), *overrides)
    done = subprocess.run(overrides, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "trainer", [["trainer=smoke"], ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]]
)
def test_an_agent_runs_each_job_once(
    tmp_path: Path,
    wandb_server: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    trainer: list[str],
) -> None:
    use(wandb_server, monkeypatch)
    sweep = yaml.safe_load((SWEEPS / "wandb" / "learning_rate.yaml").read_text(encoding="utf-8"))
    rates = sweep["parameters"]["optimizer.lr"]["values"][:2]
    sweep["parameters"]["optimizer.lr"]["values"] = rates
    small = [
        *trainer,
        "trainer.max_epochs=2",
        f"paths.outputs={tmp_path}",
        "callbacks=quiet",
        "trainer.limit_train_batches=2",
    ]
    sweep["parameters"] |= {key: {"value": value} for key, _, value in (override.partition("=") for override in small)}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))

    output = wandb("sweep", "--project", "tests", str(tmp_path / "sweep.yaml"))
    id = re.search(r"wandb agent (\S+)", output)
    assert id is not None, output
    wandb("agent", id[1])

    folders = {file.parent for file in tmp_path.rglob("run.json")}
    assert len(folders) == len(wandb_server.runs) == len(rates)
    for path in folders:
        folder = RunFolder.open(path)
        run = wandb_server.runs[folder.record["wandb"]["id"]]
        assert run.complete and run.exit_code == 0 and folder.record["status"] == "finished"
        assert run.sweep == id[1].rpartition("/")[2]
        assert {key: run.config[key] for key in folder.config()} == folder.config()
        assert run.config["optimizer"]["lr"] == run.config["optimizer.lr"], (
            "what the sweep gave is what was trained with"
        )
        logged = [row["val/loss"] for row in folder.metrics() if "val/loss" in row]
        assert run.values("val/loss") == pytest.approx(logged, rel=1e-15) and len(logged) == 2
        assert run.summary["best/val/loss"] == folder.record["value"]
    assert {run.config["optimizer"]["lr"] for run in wandb_server.runs.values()} == set(rates)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert {run.config["optimizer"]["lr"] for run in read_project("local/tests")} == set(rates)
    assert all(set(run.config) == set(folder.config()) for run in read_project("local/tests"))
