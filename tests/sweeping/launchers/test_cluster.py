"""Jobs on other machines: events arrive once and complete, and no job is submitted twice or lost."""

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from src.config.groups import CONF
from src.core.errors import UserError
from src.sweeping.launchers import cluster, submitit_slurm
from src.sweeping.launchers.cluster import RemoteExecutor
from src.sweeping.launchers.file_channel import FileChannel
from src.sweeping.launchers.ray import ray
from src.sweeping.launchers.submitit_slurm import SlurmExecutor, slurm
from src.sweeping.messages import PRUNE, STOP, Assignment, Ended, Event, Progress


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CHANNEL_POLL_SECONDS", 0.0)


def job(folder: Path, number: int) -> Assignment:
    return Assignment(number, {"trainer": {"devices": 1}}, folder / f"job{number}", ())


class Scheduler(RemoteExecutor):
    """Records its calls, and reports the jobs that the test marks as dead."""

    def __init__(self, folder: Path, jobs: int = 10) -> None:
        super().__init__(folder, jobs, cores=1, gpus=0, status_seconds=0.0)
        self.submitted: list[list[int]] = []
        self.dead: dict[int, str] = {}
        self.cancelled: list[tuple[list[int], bool]] = []

    def submit(self, assignments: Sequence[Assignment]) -> None:
        self.submitted.append([one.number for one in assignments])

    def gone(self, jobs: Iterable[Assignment]) -> Mapping[int, str]:
        return {one.number: self.dead[one.number] for one in jobs if one.number in self.dead}

    def cancel(self, jobs: Sequence[Assignment], waiting_only: bool) -> None:
        self.cancelled.append(([one.number for one in jobs], waiting_only))

    def close(self) -> None:
        pass


# ---- mail ----------------------------------------------------------------------------------------------------------


def test_events_arrive_once_in_order_and_torn_ones_not_at_all(tmp_path: Path) -> None:
    theirs, ours = FileChannel(tmp_path / "mail", "job"), FileChannel(tmp_path / "mail", "job")
    ours.clear()
    assert ours.collect() == []
    first, second = Progress(3, 0, 5, {"val/loss": 0.25}), Ended(3, "failed", "Traceback\n…")
    theirs.post(first)
    assert ours.collect() == [first] and ours.collect() == []
    with (tmp_path / "mail" / "job.events").open("a") as file:
        file.write('\n{"number": 3, "epo')  # killed within a line, and started anew
    assert ours.collect() == []
    theirs.post(second)
    assert ours.collect() == [second]
    ours.send_control(STOP)
    assert theirs.control_message() == STOP
    ours.clear()
    assert theirs.control_message() is None and ours.collect() == []


def test_jobs_that_start_together_are_submitted_together(tmp_path: Path) -> None:
    scheduler = Scheduler(tmp_path, jobs=3)
    jobs = [job(tmp_path, number) for number in (1, 2, 3, 4)]
    for one in jobs[:3]:
        assert scheduler.room(one)
        scheduler.start(one)
    assert not scheduler.room(jobs[3])
    assert scheduler.wait(0.0) == [] and scheduler.submitted == [[1, 2, 3]]
    FileChannel(tmp_path / "cluster", "job2").post(Ended(2, "finished"))
    assert scheduler.wait(0.0) == [Ended(2, "finished")] and scheduler.room(jobs[3])
    scheduler.start(jobs[3])
    scheduler.wait(0.0)
    assert scheduler.submitted == [[1, 2, 3], [4]]


def test_a_job_that_is_gone_ends_with_its_own_event_or_the_scheduler_s_reason(tmp_path: Path) -> None:
    scheduler = Scheduler(tmp_path)
    for number in (1, 2, 3):
        scheduler.start(job(tmp_path, number))
    scheduler.wait(0.0)
    scheduler.dead = {1: "OUT_OF_MEMORY"}
    assert scheduler.wait(0.0) == [Ended(1, "failed", "OUT_OF_MEMORY")]
    scheduler.stop(STOP, 2)
    assert scheduler.cancelled == [([2], True)]
    scheduler.dead = {2: "CANCELLED"}
    assert scheduler.wait(0.0) == [Ended(2, "interrupted", "CANCELLED")], "that was asked of it"

    scheduler.start(job(tmp_path, 4))
    scheduler.stop(PRUNE, 4)
    scheduler.dead = {4: "TIMEOUT"}
    assert scheduler.wait(0.0) == [Ended(4, "pruned", "TIMEOUT")]

    class Late(Scheduler):
        def gone(self, jobs: Iterable[Assignment]) -> Mapping[int, str]:
            FileChannel(tmp_path / "cluster", "job3").post(Ended(3, "finished"))  # just before it was asked
            return {3: "COMPLETED"}

    late = Late(tmp_path)
    late.start(job(tmp_path, 3))
    events: list[Event] = late.wait(0.0)
    assert events == [Ended(3, "finished")]


# ---- SLURM, as squeue shows it ---------------------------------------------------------------------------------------


@pytest.fixture
def squeue(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the lines that squeue prints; without any it fails."""
    lines: list[str] = []

    def run(command: Sequence[str], **_: object) -> "subprocess.CompletedProcess[str]":
        assert command[0] == "squeue"
        return subprocess.CompletedProcess(list(command), 0 if lines else 1, "\n".join(lines), "")

    monkeypatch.setattr(submitit_slurm.subprocess, "run", run)
    return lines


def settings() -> dict[str, object]:
    raw = OmegaConf.load(CONF / "hydra" / "launcher" / "submitit_slurm.yaml")
    plain = OmegaConf.to_container(raw)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "_target_"} | {"poll_seconds": 1e-6}


def executor(folder: Path) -> SlurmExecutor:
    from src.config.schema.launcher import SlurmSettings
    from src.config.validate import check_section

    return SlurmExecutor(folder, check_section(SlurmSettings, settings(), "hydra.launcher"), folder.parent / "slurm")


def test_a_new_driver_takes_over_what_is_in_the_queue(
    tmp_path: Path, squeue: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tmp_path / "sweep"
    mail = sweep / "cluster"
    mail.mkdir(parents=True)
    (mail / "sweep-aaaaaaaa.array").write_text('["job1", "job2", "job3"]')
    (mail / "sweep-bbbbbbbb.array").write_text('["job4"]')
    squeue += [
        "7_0|RUNNING|sweep-aaaaaaaa",
        "7_1|FAILED|sweep-aaaaaaaa",
        "7_2|COMPLETING|sweep-aaaaaaaa",
        "8|PENDING|sweep-bbbbbbbb",
    ]
    squeue += ["9_0|RUNNING|others-aa"]
    FileChannel(mail, "job3").post(Ended(3, "failed", "too large"))  # it is over, though SLURM still clears up
    submitted: list[int] = []
    monkeypatch.setattr(SlurmExecutor, "submit", lambda self, due: submitted.extend(one.number for one in due))
    adopting = executor(sweep)
    for number in (1, 2, 3, 4):
        adopting.start(job(sweep, number))
    adopting.wait(0.0)
    assert submitted == [2, 3]


def test_a_job_is_given_up_when_squeue_lacks_it_twice(
    tmp_path: Path, squeue: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tmp_path / "sweep"
    mail = sweep / "cluster"
    mail.mkdir(parents=True)
    (mail / "sweep-aaaaaaaa.array").write_text('["job1", "job2"]')
    squeue += ["7_0|RUNNING|sweep-aaaaaaaa", "7_1|RUNNING|sweep-aaaaaaaa"]
    monkeypatch.setattr(SlurmExecutor, "submit", lambda self, due: None)
    adopting = executor(sweep)
    for number in (1, 2):
        adopting.start(job(sweep, number))
    squeue[:] = []
    assert adopting.wait(0.0) == [] and adopting.wait(0.0) == [], "squeue failed"
    squeue[:] = ["7_1|RUNNING|sweep-aaaaaaaa"]
    assert adopting.wait(0.0) == []
    squeue[:] = ["7_0|PENDING|sweep-aaaaaaaa", "7_1|RUNNING|sweep-aaaaaaaa"]
    assert adopting.wait(0.0) == [], "it was requeued"
    squeue[:] = ["7_0|TIMEOUT|sweep-aaaaaaaa", "7_1|RUNNING|sweep-aaaaaaaa"]
    assert adopting.wait(0.0) == []
    (ended,) = adopting.wait(0.0)
    assert isinstance(ended, Ended) and ended.number == 1 and "7_0 ended: TIMEOUT" in ended.error


def test_the_pickles_of_a_submission_are_not_in_the_sweep(tmp_path: Path, squeue: list[str]) -> None:
    """Whoever controls the folder of a sweep could replace a folder within it while a job is queued."""
    folder = executor(tmp_path / "sweep")._new_folder("sweep-aaaaaaaa")
    assert not folder.is_relative_to(tmp_path / "sweep")
    assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError):
        executor(tmp_path / "sweep")._new_folder("sweep-aaaaaaaa")


# ---- mistakes ------------------------------------------------------------------------------------------------------


def test_the_extra_is_named_where_a_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"\.\[slurm\]"):
        slurm(settings(), Path())
    with pytest.raises(UserError, match=r"\.\[ray\]"):
        ray({"address": None, "jobs": None, "cpus_per_job": 1, "gpus_per_job": 0})


def test_settings_of_a_launcher_are_checked() -> None:
    with pytest.raises(UserError) as raised:
        slurm(settings() | {"timeout_min": 0, "partitions": "gpu"}, Path())
    assert "hydra.launcher.timeout_min=0: must be greater than 0" in str(raised.value)
    assert "hydra.launcher.partitions=gpu: unknown key" in str(raised.value)


def test_a_machine_without_slurm_is_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no sbatch here"):
        slurm(settings(), Path())
