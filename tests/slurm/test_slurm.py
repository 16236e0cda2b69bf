"""Sweeps on a real SLURM: make test-slurm starts one where there is none."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from src.diagnostics.resume_check import compare
from src.run_store.run_folder import RunFolder
from src.sweeping.ledger import Ledger
from tests.sweeping.commands import PRUNED, records, running, start, wait_for

MakeOverrides = Callable[..., list[str]]
SLOW = """
import time
from lightning.pytorch.callbacks import Callback
class Slow(Callback):
    def on_train_batch_end(self, *arguments):
        time.sleep(0.04)
"""


def _is_available() -> bool:
    return (
        shutil.which("sinfo") is not None and not subprocess.run(["sinfo"], capture_output=True, timeout=30).returncode
    )


pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not _is_available(), reason="SLURM is not available; make test-slurm"),
]


@pytest.fixture
def sweep(fast: MakeOverrides, tmp_path: Path) -> MakeOverrides:
    """Return a function that gives the overrides of a sweep of two jobs of some fifteen seconds each."""
    (tmp_path / "slow.py").write_text(SLOW)
    os.environ["PYTHONPATH"] = str(tmp_path)

    def overrides(name: str, *more: str) -> list[str]:
        common = ["regularization=[dropout,mixup]", "scheduler=cosine", "+callbacks.slow._target_=slow.Slow"]
        settings = {"trainer.max_epochs": 25, "trainer.limit_train_batches": 12, "optimizer.lr": "0.001,0.01"}
        given = {override.partition("=")[0] for override in more}
        sizes = [f"{key}={value}" for key, value in settings.items() if key not in given]
        return ["-m", *fast(*common), *sizes, f"sweep.name={name}", *more]

    return overrides


ON_SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.poll_seconds=1"]


def done(overrides: list[str]) -> tuple[int, str]:
    process = start(overrides)
    output, _ = process.communicate(timeout=900)
    return process.returncode, output


def queue(name: str) -> dict[str, str]:
    """Return the state of each live job of a sweep, by SLURM's id."""
    lines = subprocess.run(["squeue", "-h", "-r", "-o", "%i %T %j"], capture_output=True, text=True).stdout.split("\n")
    rows = [line.split() for line in lines if line]
    return {job: state for job, state, label in rows if label.rpartition("-")[0] == name}


def submissions(folder: Path) -> int:
    return len(list((folder / "cluster").glob("*.array")))


def equal(one: Path, other: Path) -> None:
    """Assert that two sweeps left the same jobs, bit for bit."""
    jobs = Ledger.open(one).jobs
    assert [job.digest for job in jobs] == [job.digest for job in Ledger.open(other).jobs]
    for job in jobs:
        different = [finding for finding in compare(one / job.slug, other / job.slug) if not finding.equal]
        assert different == [], str(job)


def test_requeued_jobs_equal_undisturbed_ones_and_a_new_driver_finds_them(sweep: MakeOverrides, tmp_path: Path) -> None:
    """One job gets the signal of its time limit, the other is requeued by SLURM, and their driver is killed meanwhile."""
    folders = {name: tmp_path / "outputs" / "sweeps" / name for name in ("whole", "requeued")}
    overrides = [*sweep("requeued", "callbacks.checkpoints.every_n_steps=7"), *ON_SLURM]
    driver = start(overrides)
    folder = folders["requeued"]
    wait_for(running(folder, 2))
    time.sleep(2)
    first, second = sorted(queue("requeued"))
    subprocess.run(["scancel", "--signal=USR2", first], check=True)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    subprocess.run(["scontrol", "requeue", second], check=True)
    wait_for(lambda: set(queue("requeued").values()) & {"PENDING"})
    assert submissions(folder) == 1
    code, output = done(overrides)
    assert code == 0 and output.count("already submitted to SLURM") == output.count("submitted") == 2, output
    assert submissions(folder) == 1, "no job was started twice"
    assert all(len(record["resumed"]) == 1 for record in records(folder).values()), "each came back once"

    finished = {file: file.stat().st_mtime_ns for file in folder.glob("*/run.json")}
    code, output = done(overrides[: -len(ON_SLURM)])  # by the local launcher
    assert code == 0 and "2 finished before" in output and submissions(folder) == 1
    assert finished == {file: file.stat().st_mtime_ns for file in folder.glob("*/run.json")}

    code, output = done(sweep("whole", "callbacks.checkpoints.every_n_steps=7"))
    assert code == 0, output
    equal(*folders.values())


def test_more_urgent_work_preempts_and_the_jobs_come_back(sweep: MakeOverrides, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "sweeps" / "preempted"
    driver = start([*sweep("preempted"), *ON_SLURM, "hydra.launcher.partition=debug"])
    wait_for(running(folder, 2))
    time.sleep(2)
    if "urgent" not in subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True).stdout:
        pytest.skip("this cluster has no partition 'urgent' that preempts")
    subprocess.run(["srun", "--partition=urgent", "--ntasks=2", "sleep", "2"], check=True, timeout=120)
    output, _ = driver.communicate(timeout=900)
    assert driver.returncode == 0, output
    found = records(folder)
    assert len(found) == 2 and all(len(record["resumed"]) == 1 for record in found.values()), "both were preempted"
    assert submissions(folder) == 1
    code, output = done(sweep("undisturbed"))
    assert code == 0, output
    equal(folder, folder.parent / "undisturbed")


def test_a_cancelled_job_costs_itself_alone_and_ctrl_c_saves_the_rest(sweep: MakeOverrides, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "sweeps" / "stopped"
    endless = ["trainer.max_epochs=100000", "regularization.early_stopping_patience=null"]
    driver = start([*sweep("stopped", "optimizer.lr=0.001,0.01,0.1", *endless), *ON_SLURM])
    wait_for(running(folder, 2))
    jobs = sorted(queue("stopped"))
    subprocess.run(["scancel", jobs[0]], check=True)
    wait_for(lambda: len(records(folder)) == 3)
    wait_for(running(folder, 2))
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 130, output
    assert f"its SLURM job {jobs[0]} ended: CANCELLED" in output, output
    wait_for(lambda: queue("stopped") == {})  # nothing is left in the queue
    found = records(folder)
    assert sorted(record["status"] for record in found.values()) == ["failed", "interrupted", "interrupted"]
    assert all((folder / name / "checkpoints" / "last.ckpt").is_file() for name in found)


def test_ranks_of_a_job_have_its_config(sweep: MakeOverrides, tmp_path: Path) -> None:
    overrides = sweep(
        "ranks", "trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=2", "optimizer.lr=0.001"
    )
    code, output = done([*overrides, *ON_SLURM])
    assert code == 0, output
    (record,) = records(tmp_path / "outputs" / "sweeps" / "ranks").values()
    assert record["status"] == "finished"
    assert re.search(r"distributed_backend=gloo|All distributed processes registered", _log(tmp_path, "ranks"))


def test_a_search_prunes_and_outlives_its_driver(sweep: MakeOverrides, tmp_path: Path) -> None:
    """The first of the four learns, the others hardly; the median pruner detects that."""
    overrides = [*sweep("search", "optimizer.lr=3e-3,1e-6,2e-6,3e-6", *PRUNED), *ON_SLURM, "hydra.launcher.jobs=1"]
    folder = tmp_path / "outputs" / "sweeps" / "search"
    driver = start(overrides)
    wait_for(lambda: any(record["status"] == "finished" for record in records(folder).values()))
    wait_for(running(folder, 1))
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    before = {name: record for name, record in records(folder).items() if record["status"] == "finished"}
    code, output = done(overrides)
    assert code == 0, output
    after = records(folder)
    assert len(after) == 4 and {name: after[name] for name in before} == before
    pruned = sum(record["status"] == "pruned" for record in after.values())
    assert pruned >= 2, "all that a driver watched; the one in between may have come to its end alone"
    assert f"{4 - pruned} of 4 jobs finished, {pruned} pruned" in output
    assert done(overrides)[1].count("(4 finished before)") == 1 and records(folder) == after


def _log(tmp_path: Path, name: str) -> str:
    return "".join(file.read_text() for file in (tmp_path / "outputs" / "sweeps" / name).glob("*/train.log"))


def test_what_slurm_refuses_fits_on_one_screen(sweep: MakeOverrides, tmp_path: Path) -> None:
    code, output = done([*sweep("refused"), *ON_SLURM, "hydra.launcher.partition=debg"])
    assert code == 2 and "Traceback" not in output and "Did you mean 'debug'?" in output, output
    assert not submissions(tmp_path / "outputs" / "sweeps" / "refused")
    assert not any(RunFolder.open(path.parent) for path in tmp_path.glob("outputs/sweeps/*/*/run.json"))
