"""How the pool deals with groups, over processes that only pretend."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src.fused.launcher import FusedPool
from src.sweeping.launchers.local import LocalPool
from src.sweeping.ledger import Ledger
from src.sweeping.messages import STOP, Assignment, Declined, Ended, Event, Said


class Pretended:
    """Takes the place of `LocalPool`'s processes.

    Attributes:
        started: what was started, in order.
        events: what the next look finds.
    """

    def __init__(self) -> None:
        self.started: list[Assignment] = []
        self.events: list[Event] = []
        self.free = 2

    def start(self, pool: Any, assignment: Assignment) -> None:
        self.started.append(assignment)
        self.free -= 1

    def wait(self, pool: Any, timeout: float) -> list[Event]:
        found, self.events = self.events, []
        own = {assignment.number for assignment in self.started}
        self.free += sum(isinstance(event, Ended) and event.number in own for event in found)
        return found


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretended]:
    pretended = Pretended()
    monkeypatch.setattr("src.sweeping.launchers.local.warm_up", lambda: None)
    monkeypatch.setattr(LocalPool, "room", lambda pool, assignment: pretended.free > 0)
    monkeypatch.setattr(LocalPool, "start", lambda pool, assignment: pretended.start(pool, assignment))
    monkeypatch.setattr(LocalPool, "wait", lambda pool, timeout: pretended.wait(pool, timeout))
    yield pretended


@pytest.fixture
def begun(processes: Pretended, tmp_path: Path) -> FusedPool:
    """Return a pool with a group of three under way."""
    pool = FusedPool(2, (), 1, 1, fuse="always", members=64)
    pool._group_of, pool._sizes = dict.fromkeys((1, 2, 3), -1), {-1: 3}
    for number in (1, 2, 3):
        job = Assignment(number, {}, tmp_path / str(number), (), output=tmp_path / "out" / f"{number}.txt")
        assert pool.room(job)
        pool.start(job)
    assert [assignment.number for assignment in processes.started] == [-1]
    assert [member.number for member in processes.started[0].members] == [1, 2, 3]
    return pool


def test_one_that_is_declined_runs_on_its_own_and_is_told_once(begun: FusedPool, processes: Pretended) -> None:
    processes.events = [Declined(1, "a reason"), Declined(2, "a reason"), Ended(3, "finished")]
    events = begun.wait(0)
    assert events == [Said("some jobs run on their own after all, as a reason"), Ended(3, "finished")]
    assert begun.wait(0) == [] and [a.number for a in processes.started] == [-1, 1], (
        "there is one slot beside the group's"
    )
    processes.events = [Ended(-1, "finished")]
    assert begun.wait(0) == []
    begun.wait(0)
    assert [assignment.number for assignment in processes.started] == [-1, 1, 2]


def test_jobs_outlive_the_process_of_their_group(begun: FusedPool, processes: Pretended) -> None:
    processes.events = [Ended(2, "finished"), Ended(-1, "failed", "its process ended with SIGKILL")]
    told = begun.wait(0)
    assert told[0] == Ended(2, "finished") and "SIGKILL" in str(told[1])
    begun.wait(0)
    assert [assignment.number for assignment in processes.started] == [-1, 1, 3]


@pytest.mark.parametrize("dies", [False, True])
def test_nothing_starts_after_ctrl_c(begun: FusedPool, processes: Pretended, dies: bool) -> None:
    processes.events = [Declined(1, "a reason")]
    begun.wait(0)
    begun.stop(STOP)
    ended = [Ended(-1, "failed", "SIGKILL")] if dies else [Ended(2, "interrupted"), Ended(3, "interrupted")]
    processes.events = list(ended)
    events = [event for _ in range(3) for event in begun.wait(0)]
    assert {event.number for event in events if isinstance(event, Ended)} == {1, 2, 3}
    assert len(processes.started) == 1


@pytest.mark.parametrize("order", [lambda pool: pool.stop(STOP), FusedPool.kill], ids=["stop", "kill"])
def test_what_waits_ends_with_ctrl_c(processes: Pretended, tmp_path: Path, order: Callable[[FusedPool], None]) -> None:
    """Jobs of a group that is not complete, and such as were to go on alone: the sweep would wait for them forever."""
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
def test_what_a_group_printed_is_kept_unless_it_was_stopped(
    begun: FusedPool, processes: Pretended, tmp_path: Path, stopped: bool
) -> None:
    output = processes.started[0].output
    assert output is not None
    output.parent.mkdir()
    output.write_text("why")
    if stopped:
        begun.kill()
    processes.events = [Ended(-1, "failed", "its process ended with SIGKILL")]
    begun.wait(0)
    assert not output.exists() and (tmp_path / "fused-group-1.log").exists() is not stopped


def test_a_search_that_learns_fuses_nothing(processes: Pretended, tmp_path: Path) -> None:
    pool = FusedPool(2, (), 1, 1, fuse="auto", members=64)
    jobs, said = pool.arrange(Ledger.create(tmp_path, "s", []), [], known=False)
    assert jobs == [] and "a search that learns" in said[0] and pool.width == 2
