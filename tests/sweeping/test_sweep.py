"""Sweeps from the command line: a folder a job, a ranking, nothing twice, and a failure that costs only itself."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

MakeOverrides = Callable[..., list[str]]


def records(tmp_path: Path) -> dict[Path, dict]:
    return {path.parent: json.loads(path.read_text()) for path in sorted(tmp_path.glob("outputs/sweeps/*/*/run.json"))}


def test_a_sweep_runs_each_job_once(command, fast: MakeOverrides, tmp_path: Path) -> None:
    overrides = ["src.train", *fast("model=mlp"), "-m", "optimizer.lr=1e-3,1e-2"]  # -m may be anywhere
    done = command(*overrides)
    assert done.returncode == 0, done.stderr
    first = records(tmp_path)
    assert len(first) == 2 and {record["status"] for record in first.values()} == {"finished"}
    assert len({folder.parent for folder in first}) == 1, "one folder for the sweep"
    rows = re.findall(r"^ *(\d+) +(\S+) +0\.\d+ .* lr-0\.\d+_", done.stdout, re.MULTILINE)
    values = [float(row[1]) for row in rows]
    assert [row[0] for row in rows] == ["1", "2"] and values == sorted(values), "the smallest val/loss first"
    recorded = sorted(record["best"]["val/loss"] for record in first.values())
    assert values == pytest.approx(recorded, rel=1e-3)

    again = command(*overrides)
    assert again.returncode == 0 and "(2 finished before)" in again.stdout
    assert records(tmp_path) == first
    assert not Path("multirun.yaml").exists(), "Hydra leaves nothing beside the outputs"


def test_a_failing_job_costs_only_itself(command, fast: MakeOverrides, tmp_path: Path) -> None:
    done = command(
        "src.train",
        "-m",
        *fast("datamodule=diabetes", "optimizer=sgd"),
        "optimizer.lr=1e-3,1e30,1e-2",
        "sweep.name=rates",
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "1 of 3 jobs failed" in done.stderr
    found = {folder.name.partition("_")[0]: record for folder, record in records(tmp_path).items()}
    assert sorted(record["status"] for record in found.values()) == ["failed", "finished", "finished"]
    (failed,) = [record for record in found.values() if record["status"] == "failed"]
    assert "FloatingPointError" in failed["error"]
    assert (tmp_path / "outputs" / "sweeps" / "rates").is_dir()


@pytest.mark.slow
def test_a_sweep_over_options_gives_every_job_its_own_folder(command, fast: MakeOverrides, tmp_path: Path) -> None:
    overrides = [override for override in fast("model=mlp") if not override.startswith("model=")]
    done = command("src.train", "-m", *overrides, "model=mlp,cnn", "regularization=[dropout],[dropout,l2]", "seed=0,1")
    assert done.returncode == 0, done.stderr
    found = records(tmp_path)
    assert len(found) == 8 and len({record["config_hash"] for record in found.values()}) == 8
    assert all("=" not in folder.name for folder in found)
