"""Whole commands with hydra/launcher=fused: what is said, what is killed, what goes on."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from src.sweeping.ledger import Ledger
from tests.fused.conftest import assert_alike, checkpoint, rows
from tests.sweeping.commands import processes, records, running, start, wait_for

Words = Callable[..., list[str]]

pytestmark = pytest.mark.slow


def words(fast: Words, name: str, *more: str) -> list[str]:
    shared = ["model=mlp", "hydra/launcher=fused", "hydra.launcher.fuse=always", "hydra.launcher.jobs=1"]
    return ["-m", *fast("trainer.precision=64-true"), *shared, f"sweep.name={name}", *more]


def folder_of(tmp_path: Path, name: str) -> Path:
    return tmp_path / "outputs" / "sweeps" / name


def test_a_mixed_sweep_says_what_is_fused(fast: Words, tmp_path: Path) -> None:
    typed = words(fast, "mixed", "optimizer.lr=1e-3,2e-3,3e-3", "trainer.accumulate_grad_batches=1,2")
    sweep = start(typed)
    output, _ = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, output
    assert "fused: 3 jobs in 1 group of 3, which differ in optimizer.lr" in output
    assert "on their own: 3 jobs, as trainer.accumulate_grad_batches=2" in output
    assert "6 of 6 jobs finished" in output
    before = records(folder_of(tmp_path, "mixed"))
    pids = {record["pid"] for record in before.values()}
    assert len(before) == 6 and len(pids) == 4, "three members share a process"
    again = start(typed)
    output, _ = again.communicate(timeout=600)
    assert again.returncode == 0 and "6 finished before" in output and "fused:" not in output
    assert records(folder_of(tmp_path, "mixed")) == before


def test_never(fast: Words, tmp_path: Path) -> None:
    sweep = start(words(fast, "never", "optimizer.lr=1e-3,2e-3", "hydra.launcher.fuse=never"))
    output, _ = sweep.communicate(timeout=600)
    assert sweep.returncode == 0 and "fused: nothing, as hydra.launcher.fuse=never" in output
    assert len({record["pid"] for record in records(folder_of(tmp_path, "never")).values()}) == 2


def test_a_wrong_setting_is_refused(fast: Words) -> None:
    sweep = start(words(fast, "wrong", "optimizer.lr=1e-3,2e-3", "hydra.launcher.fuse=allways"))
    output, _ = sweep.communicate(timeout=600)
    assert sweep.returncode == 2 and "hydra.launcher.fuse=allways" in output and "always" in output


LONG = ["trainer.max_epochs=25", "trainer.limit_train_batches=5", "callbacks.checkpoints.pause=0"]


def test_killed_and_stopped_it_comes_to_the_same(fast: Words, tmp_path: Path) -> None:
    """Killed with all its processes, then asked to stop, then left alone: as if nothing had happened."""
    varied = [*LONG, "optimizer.lr=1e-3,2e-3", "seed=0,1", "scheduler=cosine"]
    whole = start(words(fast, "whole", *varied))
    output, _ = whole.communicate(timeout=900)
    assert whole.returncode == 0, output

    typed, folder = words(fast, "killed", *varied), folder_of(tmp_path, "killed")
    sweep = start(typed, MARKER="fused")
    wait_for(running(folder, 4))
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.communicate()
    wait_for(lambda: not processes("fused"), 20)
    assert {record["status"] for record in records(folder).values()} == {"running"}, "the kill met them"

    sweep = start(typed, MARKER="fused")
    wait_for(lambda: all(record["resumed"] for record in records(folder).values()))
    os.kill(sweep.pid, signal.SIGINT)
    output, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 130 and "sweep.resume=" in output, output
    assert {record["status"] for record in records(folder).values()} == {"interrupted"}
    assert not processes("fused")

    sweep = start(typed)
    output, _ = sweep.communicate(timeout=900)
    assert sweep.returncode == 0 and "4 of 4 jobs finished" in output, output
    assert len({record["pid"] for record in records(folder).values()}) == 1, "they went on as a group"
    for job in Ledger.open(folder).jobs:
        (other,) = (o for o in Ledger.open(folder_of(tmp_path, "whole")).jobs if o.label == job.label)
        pair = [folder_of(tmp_path, "whole") / other.slug, folder / job.slug]
        for name in ("last", "best"):
            one, two = (checkpoint(path, name) for path in pair)
            assert_alike(one["state_dict"], two["state_dict"], 1e-10, name)
            assert_alike(one["optimizer_states"], two["optimizer_states"], 1e-10, name)
        last = [rows(path)[-1] for path in pair]
        assert_alike(last[0], last[1], 1e-6)


def test_a_killed_worker_costs_no_job(fast: Words, tmp_path: Path) -> None:
    """What a group has not brought to an end goes on as runs of their own."""
    folder = folder_of(tmp_path, "worker")
    sweep = start(words(fast, "worker", *LONG, "optimizer.lr=1e-3,2e-3"))
    first = wait_for(running(folder, 2))
    os.kill(first[0]["pid"], signal.SIGKILL)
    output, _ = sweep.communicate(timeout=900)
    assert sweep.returncode == 0, output
    assert "group 1 ended before 2 jobs of it" in output and "SIGKILL" in output and "2 of 2 jobs finished" in output
