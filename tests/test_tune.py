"""The tuning order: each stage starts from the best job of the one before, the page agrees with the records, the experiment
reproduces the best job, and no job runs twice.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src import ROOT
from src.cli.tune import tune
from src.core.console import format_number
from src.core.errors import UserError
from src.sweeping.tuning.stages import ORDER, Tuning, thinned

MakeOverrides = Callable[..., list[str]]


def records(folder: Path) -> dict[Path, dict[str, Any]]:
    return {path.parent: json.loads(path.read_text()) for path in folder.glob("sweeps/*/*/run.json")}


def test_a_list_is_thinned_evenly() -> None:
    values = [str(index) for index in range(7)]
    assert thinned(values, 7) == values and thinned(values, 1) == ["3"]
    for count in range(1, 8):
        places = [int(value) for value in thinned(values, count)]
        assert len(set(places)) == count and places == sorted(places)
        assert [6 - index for index in reversed(places)] == pytest.approx(places, abs=1), "symmetric"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["budget=5"], "budget=11 or more"),
        (["budget=many"], "a whole number"),
        (["-m", "model=mlp"], "-m: tuning makes its own sweeps"),
        (["cross_validation.folds=3"], "tune first"),
        (["search=optuna"], "tuning makes its own sweeps"),
        (["optimizer.lr=1e-3,1e-2"], "optimizer.lr: tuning varies the keys"),
        (["model=mpl"], "Did you mean 'mlp'"),
    ],
)
def test_invalid_input_is_reported(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tune(overrides)


def test_a_sweep_behind_a_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tuning = Tuning(["model=mlp", "logger=none"], 11, lambda overrides: None)
    (tmp_path / "thesis").mkdir()
    tuning.folder.mkdir(parents=True)
    (tuning.folder / "sweeps").symlink_to(tmp_path / "thesis")
    with pytest.raises(UserError, match="this is a link"):
        next(iter(tuning.run()))
    assert not list((tmp_path / "thesis").iterdir())


def test_stages_stay_within_the_budget() -> None:
    """For any sizes of the stages, the total is at most the budget, and each stage has at least two jobs."""
    tuning = Tuning(["model=mlp"], 11, lambda overrides: None)
    for budget in range(11, 60):
        for sizes in ((6, 4, 5, 16, 4), (100, 100, 100, 100, 100), (6, 0, 0, 16, 4)):
            tuning._remaining = budget - 1
            shares = []
            for stage, size in enumerate(sizes, start=1):
                shares.append(min(tuning._share(stage, size), size))
                tuning._remaining -= shares[-1]
            assert tuning._remaining >= 0 and all(shares[index] >= min(2, size) for index, size in enumerate(sizes))
            assert shares[-1] == sizes[-1] or tuning._remaining == 0


@pytest.mark.slow
@pytest.mark.req("H2")
def test_a_killed_tuning_continues_with_the_same_command(fast: MakeOverrides, tmp_path: Path) -> None:
    overrides = [*fast("model=mlp"), "trainer.max_epochs=3", "trainer.limit_train_batches=8", "budget=13"]
    command = [sys.executable, "-m", "src.tune", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}

    first = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)  # type: ignore[call-overload]
    end = time.monotonic() + 300
    (tune_folder,) = (tmp_path / "outputs" / "tune",)
    while (
        time.monotonic() < end
        and sum(r["status"] == "finished" for f in tune_folder.glob("*") for r in records(f).values()) < 5
    ):
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    (folder,) = tune_folder.glob("*")
    finished = {path: record for path, record in records(folder).items() if record["status"] == "finished"}
    assert len(finished) >= 5

    process = subprocess.run(command, cwd=ROOT, timeout=500, **pipes)  # type: ignore[call-overload]
    assert process.returncode == 0, process.stdout
    after = records(folder)
    assert {path: after[path] for path in finished} == finished, "a finished job ran again"
    assert 11 <= len(after) <= 13 and {record["status"] for record in after.values()} == {"finished"}

    # the page agrees with the records
    page = (folder / "tune.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")
    ][1:]
    assert [row[0] for row in rows] == ["start", *ORDER]
    best = float("inf")
    for index, row in enumerate(rows):
        values = [r["value"] for path, r in after.items() if re.search(rf"-{index}-[a-z-]+$", path.parent.name)]
        assert int(row[2]) == len(values)
        gained, best = max(best - min(values), 0.0), min(best, *values)
        assert row[3] == format_number(best) and (index == 0 or row[4] == (format_number(gained) if gained else "0"))
    assert best == min(record["value"] for record in after.values())
    winner = next(record for record in after.values() if record["value"] == best)
    assert all(f"{name.partition('/')[2]} {format_number(value)}" in page for name, value in winner["final"].items())

    # the experiment reproduces the best job
    (line,) = [
        line.strip() for line in page.splitlines() if line.strip().startswith("python -m src.train --config-dir")
    ]
    outputs = tmp_path / "again"
    command_of_page = [sys.executable, *shlex.split(line)[1:], "logger=none", f"paths.outputs={outputs}"]
    process = subprocess.run(command_of_page, cwd=ROOT, timeout=300, **pipes)  # type: ignore[call-overload]
    assert process.returncode == 0, process.stdout
    (record,) = [json.loads(path.read_text()) for path in outputs.glob("runs/*/*/run.json")]
    assert record["value"] == pytest.approx(best, rel=1e-6)
    assert record["config_hash"] in {other["config_hash"] for other in after.values() if other["value"] == best}

    third = subprocess.run(command, cwd=ROOT, timeout=300, **pipes)  # type: ignore[call-overload]
    assert third.returncode == 0 and records(folder) == after
    assert (folder / "tune.md").read_text() == page
