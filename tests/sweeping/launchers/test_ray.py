"""Sweeps on a Ray of this machine: killed workers, killed drivers, and results equal to those of the local launcher."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from src.diagnostics.resume_check import compare
from src.sweeping.ledger import Ledger
from tests.sweeping.commands import PRUNED, processes, records, running, start, wait_for

pytest.importorskip("ray", reason='needs Ray: pip install -c constraints.txt -e ".[ray]"')

MakeOverrides = Callable[..., list[str]]

pytestmark = pytest.mark.slow

LONG = 600.0
"""Seconds: Ray starts a dozen processes, which takes its time on a busy machine."""


@pytest.fixture
def sweep(fast: MakeOverrides, tmp_path: Path) -> MakeOverrides:
    """Return a function that gives the overrides of a sweep of three jobs of some seconds each, two at a time."""

    def overrides(name: str, *more: str) -> list[str]:
        common = fast("regularization=[dropout,mixup]", "callbacks.checkpoints.every_n_steps=5")
        sizes = ["trainer.max_epochs=150", "trainer.limit_train_batches=12", "optimizer.lr=0.001,0.01,0.02"]
        sizes.append("regularization.early_stopping_patience=null")
        return ["-m", *common, *sizes, f"sweep.name={name}", *more]

    return overrides


def test_a_sweep_whose_worker_and_driver_were_killed_equals_an_undisturbed_one(
    sweep: MakeOverrides, tmp_path: Path
) -> None:
    folder = tmp_path / "outputs" / "sweeps" / "killed"
    overrides = sweep("killed", "hydra/launcher=ray", "hydra.launcher.jobs=2")
    driver = start(overrides, MARKER="ray")
    victims = wait_for(running(folder, 2), LONG)
    os.kill(victims[0]["pid"], signal.SIGKILL)
    wait_for(lambda: any(record["status"] == "failed" for record in records(folder).values()), LONG)
    wait_for(running(folder, 1), LONG)
    driver.kill()
    driver.communicate()
    wait_for(lambda: not processes("ray"), LONG)
    before = {name: record for name, record in records(folder).items() if record["status"] == "finished"}

    again = start(overrides, MARKER="ray")
    output, _ = again.communicate(timeout=LONG)
    assert again.returncode == 0, output
    after = records(folder)
    assert len(after) == 3 and {name: after[name] for name in before} == before
    assert sum(bool(record["resumed"]) for record in after.values()) >= 2, (
        "the killed one, and what ran with the driver"
    )
    wait_for(lambda: not processes("ray"), LONG)

    whole = start(sweep("whole"))
    output, _ = whole.communicate(timeout=LONG)
    assert whole.returncode == 0, output
    other = folder.parent / "whole"
    for job in Ledger.open(other).jobs:
        different = [finding for finding in compare(folder / job.slug, other / job.slug) if not finding.equal]
        assert different == [], str(job)


def test_a_search_prunes_and_goes_on_after_its_driver(sweep: MakeOverrides, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "sweeps" / "search"
    overrides = sweep(
        "search", "optimizer.lr=3e-3,1e-6,2e-6,3e-6", *PRUNED, "hydra/launcher=ray", "hydra.launcher.jobs=1"
    )
    overrides = [override for override in overrides if override != "optimizer.lr=0.001,0.01,0.02"]
    driver = start(overrides, MARKER="search")
    wait_for(lambda: any(record["status"] == "finished" for record in records(folder).values()), LONG)
    wait_for(lambda: len(records(folder)) > 1, LONG)
    driver.kill()
    driver.communicate()
    wait_for(lambda: not processes("search"), LONG)
    before = {name: record for name, record in records(folder).items() if record["status"] == "finished"}
    again = start(overrides, MARKER="search")
    output, _ = again.communicate(timeout=LONG)
    assert again.returncode == 0 and "1 of 4 jobs finished, 3 pruned" in output, output
    after = records(folder)
    assert {name: after[name] for name in before} == before
    assert sorted(record["status"] for record in after.values()) == ["finished", "pruned", "pruned", "pruned"]
    wait_for(lambda: not processes("search"), LONG)


def test_ctrl_c_lets_the_jobs_save_a_checkpoint(sweep: MakeOverrides, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "sweeps" / "stopped"
    driver = start(sweep("stopped", "trainer.max_epochs=100000", "hydra/launcher=ray"), MARKER="stopped")
    wait_for(running(folder, 2), LONG)
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
    output, _ = driver.communicate(timeout=LONG)
    assert driver.returncode == 130 and "sweep.resume=" in output, output
    assert {record["status"] for record in records(folder).values()} == {"interrupted"}
    wait_for(lambda: not processes("stopped"), LONG)


def test_missing_resources_of_ray_are_an_error(sweep: MakeOverrides) -> None:
    asked = start(sweep("refused", "hydra/launcher=ray", "hydra.launcher.gpus_per_job=1"), CUDA_VISIBLE_DEVICES="")
    output, _ = asked.communicate(timeout=LONG)
    assert (
        asked.returncode == 2
        and "the largest node of the Ray cluster has 0 GPUs" in output
        and "Traceback" not in output
    )
