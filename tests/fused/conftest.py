"""Train the same jobs as members of a group and as separate runs."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from src.config.compose import compose
from src.config.validate import check
from src.fused.worker import train_group
from src.sweeping.messages import Assignment, Ended, Event
from src.sweeping.worker import WorkerControl
from src.training.run import run

Overrides = Callable[..., list[str]]
VOLATILE_KEYS = {"started", "ended", "seconds", "command", "git", "pid", "resumed"}
"""Keys of run.json that depend on the time and the process."""


@dataclass
class RunPairs:
    """Runs of the same jobs, separate and as members of a group.

    Args:
        separate: run folder of each separate run.
        members: run folder of each member.
        events: events of the group.
    """

    separate: list[Path]
    members: list[Path]
    events: list[Event] = field(default_factory=list)

    def ended(self) -> dict[int, Ended]:
        return {event.number: event for event in self.events if isinstance(event, Ended)}


def assignment(configs: Sequence[dict[str, Any]], folders: Sequence[Path]) -> Assignment:
    members = tuple(
        Assignment(number, config, folder, ("test",))
        for number, (config, folder) in enumerate(zip(configs, folders, strict=True), 1)
    )
    return Assignment(-1, {}, folders[0].parent, (), members=members)


def train_together(configs: Sequence[dict[str, Any]], folders: Sequence[Path], fuse: str = "always") -> list[Event]:
    events: list[Event] = []
    train_group(Assignment(**vars(assignment(configs, folders)) | {"fuse": fuse}), WorkerControl(events.append))
    return events


@pytest.fixture
def run_pairs(fast: Overrides, tmp_path: Path) -> Callable[..., RunPairs]:
    """Return a function that trains jobs both ways, from shared overrides and those of each job."""

    def runs(shared: Sequence[str], own: Sequence[Sequence[str]]) -> RunPairs:
        configs = [check(compose([*fast(*shared), *overrides])).plain() for overrides in own]
        separate = [tmp_path / "alone" / str(number) for number in range(len(own))]
        members = [tmp_path / "members" / str(number) for number in range(len(own))]
        for config, folder in zip(configs, separate, strict=True):
            with suppress(FloatingPointError):
                run(check(config), folder, verbose=False, command=["test"])
        return RunPairs(separate, members, train_together(configs, members))

    return runs


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "time"} for row in found]


def checkpoint(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)  # type: ignore[no-any-return]


def record(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "run.json").read_text())
    return {key: value for key, value in found.items() if key not in VOLATILE_KEYS}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def assert_equal_within(one: Any, other: Any, tolerance: float, where: str = "") -> None:
    """Check that two values are equal, with the same keys in the same order, and numbers within a tolerance."""
    assert type(one) is type(other), f"{where}: {one!r} and {other!r}"
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_equal_within(one[key], other[key], tolerance, f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_equal_within(left, right, tolerance, f"{where}/{number}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape, where
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance, msg=lambda text: f"{where}: {text}")
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=tolerance, abs=tolerance), where
    else:
        assert one == other, where
