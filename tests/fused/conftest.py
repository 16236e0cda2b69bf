"""Members of a group beside the same jobs as runs of their own."""

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
from src.fused.worker import together
from src.sweeping.messages import Assignment, Ended, Event
from src.sweeping.worker import Orders
from src.training.run import run

Words = Callable[..., list[str]]
OF_THE_MOMENT = {"started", "ended", "seconds", "command", "git", "pid", "resumed"}
"""What run.json says of the moment and the process, and not of the run."""


@dataclass
class Both:
    """Jobs, on their own and as a group.

    Args:
        alone: the run folder of each on its own.
        members: the run folder of each as a member.
        events: that the group sent.
    """

    alone: list[Path]
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
    together(Assignment(**vars(assignment(configs, folders)) | {"fuse": fuse}), Orders(events.append))
    return events


@pytest.fixture
def both(fast: Words, tmp_path: Path) -> Callable[..., Both]:
    """Return a function that runs jobs both ways: words that they share, and those of each."""

    def runs(shared: Sequence[str], own: Sequence[Sequence[str]]) -> Both:
        configs = [check(compose([*fast(*shared), *words])).plain() for words in own]
        alone = [tmp_path / "alone" / str(number) for number in range(len(own))]
        members = [tmp_path / "members" / str(number) for number in range(len(own))]
        for config, folder in zip(configs, alone, strict=True):
            with suppress(FloatingPointError):
                run(check(config), folder, verbose=False, command=["test"])
        return Both(alone, members, train_together(configs, members))

    return runs


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "time"} for row in found]


def checkpoint(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)  # type: ignore[no-any-return]


def record(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "run.json").read_text())
    return {key: value for key, value in found.items() if key not in OF_THE_MOMENT}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def assert_alike(one: Any, other: Any, bound: float, where: str = "") -> None:
    """Check that two things are equal, with the same keys in the same order, but for numbers within a bound."""
    assert type(one) is type(other), f"{where}: {one!r} and {other!r}"
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_alike(one[key], other[key], bound, f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_alike(left, right, bound, f"{where}/{number}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape, where
        torch.testing.assert_close(other, one, rtol=bound, atol=bound, msg=lambda text: f"{where}: {text}")
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=bound, abs=bound), where
    else:
        assert one == other, where
