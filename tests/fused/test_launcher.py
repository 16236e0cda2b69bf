"""Groups of jobs in the worker pool, with fake processes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.fused.launcher import FusedPool
from src.sweeping.launchers.local import LocalPool
from src.sweeping.ledger import Ledger
from src.sweeping.messages import STOP, Assignment, Ended, Event, Message, Rejected


class FakeProcesses:
    """Replacement for the processes of `LocalPool`.

    Attributes:
        started: assignments that were started, in order.
        events: events that the next `wait` returns.
    """

    def __init__(self) -> None:
        self.started: list[Assignment] = []
        self.events: list[Event] = []
        self.free = 2

    def start(self, pool: Any, assignment: Assignment) -> None:
        self.started.append(assignment)
        self.free -= 1

    def wait(self, pool: Any, timeout: float) -> list[Event]:
        events, self.events = self.events, []
        numbers = {assignment.number for assignment in self.started}
        self.free += sum(isinstance(event, Ended) and event.number in numbers for event in events)
        return events


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProcesses]:
    fake = FakeProcesses()
    monkeypatch.setattr("src.sweeping.launchers.local.preload", lambda: None)
    monkeypatch.setattr(LocalPool, "room", lambda pool, assignment: fake.free > 0)
    monkeypatch.setattr(LocalPool, "start", lambda pool, assignment: fake.start(pool, assignment))
    monkeypatch.setattr(LocalPool, "wait", lambda pool, timeout: fake.wait(pool, timeout))
    yield fake


@pytest.fixture
def group_pool(processes: FakeProcesses, tmp_path: Path) -> FusedPool:
    """Return a pool with a running group of three jobs."""
    pool = FusedPool(2, (), 1, 1, fuse="always", members=64)
    pool._group_of, pool._sizes = dict.fromkeys((1, 2, 3), -1), {-1: 3}
    for number in (1, 2, 3):
        job = Assignment(number, {}, tmp_path / str(number), (), output=tmp_path / "out" / f"{number}.txt")
        assert pool.room(job)
        pool.start(job)
    assert [assignment.number for assignment in processes.started] == [-1]
    assert [member.number for member in processes.started[0].members] == [1, 2, 3]
    return pool


def test_rejected_job_runs_separately_and_each_reason_is_reported_once(
    group_pool: FusedPool, processes: FakeProcesses
) -> None:
    processes.events = [Rejected(1, "a reason"), Rejected(2, "a reason"), Ended(3, "finished")]
    events = group_pool.wait(0)
    assert events == [Message("some jobs are not fused after all: a reason"), Ended(3, "finished")]
    assert group_pool.wait(0) == [] and [a.number for a in processes.started] == [-1, 1], (
        "one slot is left beside the group"
    )
    processes.events = [Ended(-1, "finished")]
    assert group_pool.wait(0) == []
    group_pool.wait(0)
    assert [assignment.number for assignment in processes.started] == [-1, 1, 2]


def test_jobs_continue_after_the_process_of_their_group_died(group_pool: FusedPool, processes: FakeProcesses) -> None:
    processes.events = [Ended(2, "finished"), Ended(-1, "failed", "its process ended with SIGKILL")]
    events = group_pool.wait(0)
    assert events[0] == Ended(2, "finished") and "SIGKILL" in str(events[1])
    group_pool.wait(0)
    assert [assignment.number for assignment in processes.started] == [-1, 1, 3]


@pytest.mark.parametrize("dies", [False, True])
def test_no_job_starts_after_ctrl_c(group_pool: FusedPool, processes: FakeProcesses, dies: bool) -> None:
    processes.events = [Rejected(1, "a reason")]
    group_pool.wait(0)
    group_pool.stop(STOP)
    ended = [Ended(-1, "failed", "SIGKILL")] if dies else [Ended(2, "interrupted"), Ended(3, "interrupted")]
    processes.events = list(ended)
    events = [event for _ in range(3) for event in group_pool.wait(0)]
    assert {event.number for event in events if isinstance(event, Ended)} == {1, 2, 3}
    assert len(processes.started) == 1


@pytest.mark.parametrize("order", [lambda pool: pool.stop(STOP), FusedPool.kill], ids=["stop", "kill"])
def test_waiting_jobs_end_with_ctrl_c(
    processes: FakeProcesses, tmp_path: Path, order: Callable[[FusedPool], None]
) -> None:
    """Jobs of an incomplete group, and rejected jobs that wait; otherwise the sweep would wait for them forever."""
    pool = FusedPool(2, (), 1, 1, fuse="always", members=64)
    pool._group_of, pool._sizes = dict.fromkeys((1, 2, 3), -1), {-1: 3}
    for number in (1, 2):
        pool.start(Assignment(number, {}, tmp_path / str(number), ()))
    pool._backlog.append(Assignment(4, {}, tmp_path / "4", ()))
    order(pool)
    events = pool.wait(0)
    assert {event.number for event in events} == {1, 2, 4} and {event.status for event in events} == {"interrupted"}
    assert processes.started == [] and pool.wait(0) == []


@pytest.mark.parametrize("stopped", [False, True])
def test_output_of_a_failed_group_is_preserved_unless_it_was_stopped(
    group_pool: FusedPool, processes: FakeProcesses, tmp_path: Path, stopped: bool
) -> None:
    output = processes.started[0].output
    assert output is not None
    output.parent.mkdir()
    output.write_text("why")
    if stopped:
        group_pool.kill()
    processes.events = [Ended(-1, "failed", "its process ended with SIGKILL")]
    group_pool.wait(0)
    assert not output.exists() and (tmp_path / "fused-group-1.log").exists() is not stopped


def test_adaptive_search_fuses_no_jobs(processes: FakeProcesses, tmp_path: Path) -> None:
    pool = FusedPool(2, (), 1, 1, fuse="auto", members=64)
    jobs, messages = pool.arrange(Ledger.create(tmp_path, "s", []), [], complete=False)
    assert jobs == [] and "this search chooses each job" in messages[0] and pool.width == 2
