"""Sweep commands with hydra/launcher=fused: output, killed processes, resumed sweeps."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from src.sweeping.ledger import Ledger
from tests.fused.conftest import assert_equal_within, checkpoint, rows
from tests.sweeping.commands import processes, records, running, start, wait_for

Overrides = Callable[..., list[str]]

pytestmark = pytest.mark.slow


def overrides(fast: Overrides, name: str, *more: str) -> list[str]:
    shared = ["model=mlp", "hydra/launcher=fused", "hydra.launcher.fuse=always", "hydra.launcher.jobs=1"]
    return ["-m", *fast("trainer.precision=64-true"), *shared, f"sweep.name={name}", *more]


def folder_of(tmp_path: Path, name: str) -> Path:
    return tmp_path / "outputs" / "sweeps" / name


def test_mixed_sweep_prints_which_jobs_are_fused(fast: Overrides, tmp_path: Path) -> None:
    argv = overrides(fast, "mixed", "optimizer.lr=1e-3,2e-3,3e-3", "trainer.accumulate_grad_batches=1,2")
    sweep = start(argv)
    output, _ = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, output
    assert "fused: 3 jobs in 1 group of 3, which differ in optimizer.lr" in output
    assert "not fused: 3 jobs: trainer.accumulate_grad_batches=2" in output
    assert "6 of 6 jobs finished" in output
    before = records(folder_of(tmp_path, "mixed"))
    pids = {record["pid"] for record in before.values()}
    assert len(before) == 6 and len(pids) == 4, "three members share a process"
    again = start(argv)
    output, _ = again.communicate(timeout=600)
    assert again.returncode == 0 and "6 finished before" in output and "fused:" not in output
    assert records(folder_of(tmp_path, "mixed")) == before


def test_fuse_never(fast: Overrides, tmp_path: Path) -> None:
    sweep = start(overrides(fast, "never", "optimizer.lr=1e-3,2e-3", "hydra.launcher.fuse=never"))
    output, _ = sweep.communicate(timeout=600)
    assert sweep.returncode == 0 and "fused: no job (hydra.launcher.fuse=never)" in output
    assert len({record["pid"] for record in records(folder_of(tmp_path, "never")).values()}) == 2


def test_invalid_setting_is_rejected(fast: Overrides) -> None:
    sweep = start(overrides(fast, "wrong", "optimizer.lr=1e-3,2e-3", "hydra.launcher.fuse=allways"))
    output, _ = sweep.communicate(timeout=600)
    assert sweep.returncode == 2 and "hydra.launcher.fuse=allways" in output and "always" in output


LONG = ["trainer.max_epochs=25", "trainer.limit_train_batches=5", "callbacks.checkpoints.min_interval=0"]


def test_killed_and_stopped_sweep_has_the_same_results(fast: Overrides, tmp_path: Path) -> None:
    """All processes are killed, then the sweep is stopped, then it is run to its end."""
    varied = [*LONG, "optimizer.lr=1e-3,2e-3", "seed=0,1", "scheduler=cosine"]
    uninterrupted = start(overrides(fast, "whole", *varied))
    output, _ = uninterrupted.communicate(timeout=900)
    assert uninterrupted.returncode == 0, output

    argv, folder = overrides(fast, "killed", *varied), folder_of(tmp_path, "killed")
    sweep = start(argv, MARKER="fused")
    wait_for(running(folder, 4))
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.communicate()
    wait_for(lambda: not processes("fused"), 20)
    assert {record["status"] for record in records(folder).values()} == {"running"}, "killed while running"

    sweep = start(argv, MARKER="fused")
    wait_for(lambda: all(record["resumed"] for record in records(folder).values()))
    os.kill(sweep.pid, signal.SIGINT)
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 130 and "sweep.resume=" in output, output
    assert {record["status"] for record in records(folder).values()} == {"interrupted"}
    assert not processes("fused")

    sweep = start(argv)
    output, _ = sweep.communicate(timeout=900)
    assert sweep.returncode == 0 and "4 of 4 jobs finished" in output, output
    assert len({record["pid"] for record in records(folder).values()}) == 1, "they are resumed as a group"
    for job in Ledger.open(folder).jobs:
        (other,) = (o for o in Ledger.open(folder_of(tmp_path, "whole")).jobs if o.label == job.label)
        pair = [folder_of(tmp_path, "whole") / other.slug, folder / job.slug]
        for name in ("last", "best"):
            one, two = (checkpoint(path, name) for path in pair)
            assert_equal_within(one["state_dict"], two["state_dict"], 1e-10, name)
            assert_equal_within(one["optimizer_states"], two["optimizer_states"], 1e-10, name)
        last = [rows(path)[-1] for path in pair]
        assert_equal_within(last[0], last[1], 1e-6)


def test_killed_worker_loses_no_job(fast: Overrides, tmp_path: Path) -> None:
    """Unfinished jobs of a group continue as separate runs."""
    folder = folder_of(tmp_path, "worker")
    sweep = start(overrides(fast, "worker", *LONG, "optimizer.lr=1e-3,2e-3"))
    first = wait_for(running(folder, 2))
    os.kill(first[0]["pid"], signal.SIGKILL)
    output, _ = sweep.communicate(timeout=900)
    assert sweep.returncode == 0, output
    assert "group 1 ended with 2 jobs unfinished" in output and "SIGKILL" in output and "2 of 2 jobs finished" in output
