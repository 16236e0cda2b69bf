"""Files through which a sweep communicates with SLURM, Ray, and jobs on other machines: submissions, channels, and logs."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src import train
from src.sweeping.launchers.file_channel import FileChannel, run_with_file_channel
from src.sweeping.messages import Assignment, Ended
from tests.security.harness import Case, chosen, every, read_record, report, write_record
from tests.security.hostile import IN_PLACE_OF_A_FILE, STRINGS, VALUES, mutated, put, string

WHOLE = [pytest.param(None, marks=pytest.mark.slow, id="whole"), pytest.param(1, id="sample")]
ARRAY = "cluster/sweep-00000001.array"
LAUNCHERS = ("submitit_slurm", "ray")


def make_cluster_files(case: Case) -> list[str]:
    """Write the files of submitted jobs of the sweep, and return the names of their folders."""
    ledger = read_record(case.sweep / "ledger.jsonl")
    jobs = [job["folder"] for job in ledger[1:]]
    for job in jobs:
        shutil.rmtree(case.sweep / job)
    (case.sweep / "states.jsonl").unlink()
    (case.sweep / "cluster").mkdir()
    (case.sweep / ARRAY).write_text(json.dumps(jobs))
    for number, job in enumerate(jobs, 1):
        progress = {"number": number, "epoch": 0, "epochs": 1, "metrics": {"val/loss": 0.5}}
        ended = {"number": number, "status": "interrupted", "error": "stopped"}
        write_record(case.sweep / "cluster" / f"{job}.events.jsonl", [progress, ended])
        (case.sweep / "cluster" / f"{job}.events.jsonl").rename(case.sweep / "cluster" / f"{job}.events")
    return jobs


@pytest.fixture
def schedulers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """Install schedulers that forget their jobs at once, and return the commands that were given to SLURM."""
    from src.sweeping import scheduler
    from src.sweeping.launchers import cluster, submitit_slurm
    from src.sweeping.launchers import ray as ray_launcher

    given: list[list[str]] = []
    looks = 0

    def run(argv: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        nonlocal looks
        given.append(argv)
        looks += argv[0] == "squeue"
        shown = "7_0|RUNNING|sweep-00000001\n7_1|FAILED|sweep-00000001\n" if looks < 2 else ""
        return subprocess.CompletedProcess(argv, 0, shown, "")

    class AutoExecutor:
        def __init__(self, folder: Path, cluster: str) -> None:
            self.folder = folder

        def update_parameters(self, **parameters: Any) -> None:
            pass

        def map_array(self, function: Any, work: list[Any]) -> list[Any]:
            return [types.SimpleNamespace(job_id=f"8_{number}") for number in range(len(work))]

    class Task:
        def options(self, **options: Any) -> "Task":
            return self

        def remote(self, *arguments: Any) -> object:
            return object()

    submitit: Any = types.ModuleType("submitit")
    submitit.AutoExecutor = AutoExecutor
    ray: Any = types.ModuleType("ray")
    ray.init = lambda *arguments, **options: None
    ray.nodes = lambda: [{"Alive": True, "Resources": {"CPU": 8.0}}]
    ray.cluster_resources = lambda: {"CPU": 8.0}
    ray.remote = lambda **options: lambda function: Task()
    ray.wait = lambda tasks, num_returns, timeout: (tasks, [])
    ray.get = ray.cancel = lambda *arguments, **options: None
    ray.shutdown = lambda: None
    ray.exceptions = types.SimpleNamespace(RayError=RuntimeError)
    errors: Any = types.ModuleType("submitit.core.utils")
    errors.FailedJobError = errors.FailedSubmissionError = ConnectionError
    for name, module in (("submitit", submitit), ("submitit.core.utils", errors), ("ray", ray)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "submitit.core", types.ModuleType("submitit.core"))
    monkeypatch.setattr(submitit_slurm, "subprocess", types.SimpleNamespace(run=run))
    monkeypatch.setattr(submitit_slurm, "shutil", types.SimpleNamespace(which=lambda program: f"/usr/bin/{program}"))
    monkeypatch.setattr(cluster, "CHANNEL_POLL_SECONDS", 0.0)
    monkeypatch.setattr(ray_launcher, "STATUS_POLL_SECONDS", 0.0)
    monkeypatch.setattr(scheduler, "POLL", 0.0)
    yield given
    assert not [argv for argv in given if argv[0] not in ("squeue", "scancel", "sinfo")], given


def resume(case: Case, launcher: str) -> list[str]:
    """Resume the sweep with a launcher, in this process."""
    argv = ["-m", f"sweep.resume={case.sweep}", f"hydra/launcher={launcher}"]
    argv += ["hydra.launcher.poll_seconds=0.000001"] if launcher == "submitit_slurm" else []
    return case.open(train.main, argv, 20)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ordinary_files_of_a_cluster(new_case: Callable[..., Case], schedulers: list[list[str]], launcher: str) -> None:
    case = new_case()
    make_cluster_files(case)
    assert resume(case, launcher) == []
    assert case.code == 1 and "0 of 2 jobs finished" in case.stdout, case.stdout + case.stderr


def files(jobs: list[str]) -> list[str]:
    first = jobs[0]
    found = [ARRAY, f"cluster/{first}.events", f"cluster/{first}.order", "cluster", "output"]
    return [*found, f"output/{first}.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_in_place_of_each_file_of_a_cluster(
    new_case: Callable[..., Case],
    schedulers: list[list[str]],
    request: pytest.FixtureRequest,
    launcher: str,
) -> None:
    case = new_case()
    names = files(make_cluster_files(case))
    cases = [(file, kind) for file in names for kind in IN_PLACE_OF_A_FILE if kind != "sparse_gigabyte" or "." in file]
    failures = {}
    for file, kind in every(cases, 90):
        if not chosen(f"{file}={kind}"):
            continue
        case = new_case()
        make_cluster_files(case)
        place = case.sweep / file
        if place.is_dir():
            shutil.move(place, case.workspace / "aside")
        if not os.path.lexists(place):
            place.parent.mkdir(exist_ok=True)
            place.write_text("stop")
        put(kind, place, case.victim)
        failures[f"{file}={kind}"] = resume(case, launcher)
    report(failures, request.node.nodeid)


def lines(job: str) -> list[tuple[str, Any]]:
    """Return hostile lines of a file channel and lists of jobs."""
    events: list[dict[str, Any]] = [
        {"number": 1, "status": "failed", "error": "e"},
        {"number": 1, "epoch": 0, "epochs": 2, "metrics": {"val/loss": 0.5}},
    ]
    found: list[tuple[str, Any]] = []
    for event in events:
        for key in event:
            for name, value in (VALUES | STRINGS).items():
                found.append((f"{key}={name}", [{**event, key: value}]))
    for name, value in (VALUES | STRINGS).items():
        found.append((f"metrics key {name}", [{**events[1], "metrics": {str(value)[:1000]: 0.5, "x": value}}]))
    return found


@pytest.mark.parametrize("whole", WHOLE)
def test_events_of_a_file_channel(
    new_case: Callable[..., Case], schedulers: list[list[str]], request: pytest.FixtureRequest, whole: int | None
) -> None:
    """Of each field of an event every string and every value, many lines at a time; then mutated files."""
    failures = {}
    cases = every(lines("x"), None if whole is None else 20, lambda case: case[0])
    for start in range(0, len(cases), 20):
        case = new_case()
        jobs = make_cluster_files(case)
        events = case.sweep / "cluster" / f"{jobs[0]}.events"
        written = [json.dumps(line) for _, entries in cases[start : start + 20] for line in entries]
        events.write_text("\n".join(written).replace("{victim}", str(case.victim)) + "\n")
        failures[f"lines {start}"] = resume(case, LAUNCHERS[start // 20 % 2])
    for number in range(40 if whole is None else 1):
        case = new_case()
        jobs = make_cluster_files(case)
        events = case.sweep / "cluster" / f"{jobs[0]}.events"
        events.write_bytes(mutated(events.read_bytes(), random.Random(number)))
        failures[f"mutated {number}"] = resume(case, LAUNCHERS[number % 2])
    report(failures, request.node.nodeid)


@pytest.mark.slow
def test_names_of_submitted_jobs(
    new_case: Callable[..., Case], schedulers: list[list[str]], request: pytest.FixtureRequest
) -> None:
    failures = {}
    for name in [*STRINGS, *VALUES]:
        case = new_case()
        jobs = make_cluster_files(case)
        value = string(name, case.victim) if name in STRINGS else VALUES[name]
        (case.sweep / ARRAY).write_text(json.dumps([value, *jobs]))
        failures[name] = resume(case, "submitit_slurm")
    report(failures, request.node.nodeid)


# ---- the side of the job ---------------------------------------------------------------------------------------------


def in_a_child(work: Callable[[], object], seconds: float = 20) -> int:
    """Run a function in a forked process, and return its exit code; a negative one is a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGALRM


@pytest.mark.parametrize("whole", WHOLE)
def test_the_file_channel_of_a_job_that_starts(
    new_case: Callable[..., Case],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    whole: int | None,
) -> None:
    """A job reads its control messages, appends its events, and prints into ``output``; each may be replaced by then."""
    from src.sweeping.launchers import file_channel

    monkeypatch.setattr(file_channel, "CONTROL_POLL_SECONDS", 0.001)
    monkeypatch.setattr(file_channel, "carry_out", lambda assignment, orders: Ended(assignment.number, "finished"))
    names = ("cluster/job.order", "cluster/job.events", "cluster", "output", "output/job.txt")
    cases = [(file, kind) for file in names for kind in IN_PLACE_OF_A_FILE]
    failures = {}
    for file, kind in every(cases, None if whole is None else 6):
        if not chosen(f"{file}={kind}"):
            continue
        case = new_case()
        for name in ("cluster", "output"):
            (case.sweep / name).mkdir()
        (case.sweep / "cluster" / "job.events").write_text("")
        (case.sweep / "output" / "job.txt").write_text("")
        (case.sweep / "cluster" / "job.order").write_text("later")
        put(kind, case.sweep / file, case.victim) if (case.sweep / file).is_file() else replace(case, file, kind)
        job = Assignment(1, {}, case.sweep / "job", (), output=case.sweep / "output" / "job.txt")
        codes: list[int] = []

        def verb(argv: object, case: Case = case, job: Assignment = job, codes: list[int] = codes) -> None:
            codes.append(in_a_child(lambda: run_with_file_channel(job, FileChannel(case.sweep / "cluster", "job"))))

        faults = case.open(verb, seconds=30)
        faults += [f"the job ended with {code}" for code in codes if code not in (0, 1)]
        failures[f"{file}={kind}"] = faults
    report(failures, request.node.nodeid)


def replace(case: Case, folder: str, kind: str) -> None:
    """Put something in place of a folder."""
    shutil.move(case.sweep / folder, case.victim / "moved")
    if kind == "link":
        (case.sweep / folder).symlink_to(case.victim / "moved")
    else:
        (case.sweep / folder).write_text("x")
        put(kind, case.sweep / folder, case.victim)
