"""Searches as people start them: killed with all their processes, pruned while they train."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from src import ROOT
from src.sweeping.ledger import Ledger
from src.sweeping.search.optuna_study import _storage

pytestmark = [pytest.mark.slow, pytest.mark.req("H3")]

MakeOverrides = Callable[..., list[str]]
LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"


def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/run.json")}


def start(overrides: list[str]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "src.train", "-m", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ, start_new_session=True, **pipes)  # type: ignore[call-overload, no-any-return]


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    (summary,) = optuna.get_all_study_summaries(_storage(folder))
    return optuna.load_study(study_name=summary.study_name, storage=_storage(folder)).trials


def test_a_search_that_is_killed_again_and_again(fast: MakeOverrides, tmp_path: Path) -> None:
    overrides = [*fast("model=mlp"), LR, "model.hidden_sizes=[8],[16]", "search=optuna", "search.trials=9"]
    overrides += [
        "sweep.name=killed",
        "trainer.max_epochs=12",
        "trainer.limit_train_batches=12",
        "hydra.launcher.jobs=2",
    ]
    folder, dice = tmp_path / "outputs" / "sweeps" / "killed", random.Random(3)
    finished: dict[str, dict[str, Any]] = {}
    met = 0
    for _ in range(8):
        sweep = start(overrides)
        until = len(finished) + dice.choice((0, 1, 2))
        end = time.monotonic() + 200
        while sweep.poll() is None and time.monotonic() < end:
            now = sum(record["status"] == "finished" for record in records(folder).values())
            if now > until or (now == until and (folder / "study.journal").is_file()):
                break
            time.sleep(0.1)
        time.sleep(dice.uniform(0, 1))
        over = sweep.poll() is not None
        with suppress(ProcessLookupError):
            os.killpg(sweep.pid, signal.SIGKILL)
        sweep.communicate()
        after = records(folder)
        assert {name: after[name] for name in finished} == finished, "a finished job ran again"
        finished = {name: record for name, record in after.items() if record["status"] == "finished"}
        if over:
            break
        met += 1
    assert met > 1
    sweep = start(overrides)
    output, _ = sweep.communicate(timeout=500)
    assert sweep.returncode == 0, output
    after = records(folder)
    assert {name: after[name] for name in finished} == finished, "a finished job ran again"
    trials, jobs = trials_of(folder), Ledger.open(folder).jobs
    assert len(trials) == 9 and {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert {trial.user_attrs["job"] for trial in trials} == set(after) == {job.slug for job in jobs}
    assert all(trial.value == after[trial.user_attrs["job"]]["value"] for trial in trials)


def test_a_pruned_job_keeps_its_best_value(fast: MakeOverrides, tmp_path: Path) -> None:
    overrides = [override for override in fast("model=mlp") if not override.startswith("trainer.max_epochs")]
    overrides += ["trainer.max_epochs=200", "regularization=none", "optimizer.lr=3e-3,1e-5,2e-5", "sweep.name=pruned"]
    overrides += ["search.pruner=median", "search.startup_jobs=1", "search.warmup_epochs=3", "hydra.launcher.jobs=1"]
    sweep = start(overrides)
    output, _ = sweep.communicate(timeout=500)
    assert sweep.returncode == 0, output
    assert "1 of 3 jobs finished, 2 pruned" in output
    folder = tmp_path / "outputs" / "sweeps" / "pruned"
    found = records(folder)
    assert sorted(record["status"] for record in found.values()) == ["finished", "pruned", "pruned"]
    for name, record in found.items():
        rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
        losses = {row["epoch"]: row["val/loss"] for row in rows if "val/loss" in row}
        assert record["value"] == min(losses.values()) and losses[record["best_epoch"]] == record["value"]
        assert len(losses) < 100 if record["status"] == "pruned" else len(losses) == 200
    again = start(overrides)
    assert "(3 finished before)" in again.communicate(timeout=200)[0] and records(folder) == found


def test_mistakes_end_with_code_2(command: Callable[..., Any]) -> None:
    done = command("src.train", "search=optuna", LR.replace("tag(log,interval(1e-4,1e-1))", "0.1"))
    assert done.returncode == 2 and "search=optuna is for sweeps" in done.stderr
