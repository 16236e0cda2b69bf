"""Atomic writes, alone and in batches."""

import errno
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from src.core.errors import UserError
from src.run_store import atomic_write as module
from src.run_store.atomic_write import atomic_link, atomic_write, batch_writes, flush_writes


def write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return what is done to files, in its order: ``sync`` and ``replace``, with their names."""
    done: list[tuple[str, str]] = []
    sync_below, move_below = module.sync_below, module.move_below

    def sync(root: Path, name: Path) -> None:
        sync_below(root, name)
        done.append(("sync", name.name))

    def move(root: Path, partial: Path, name: Path) -> None:
        move_below(root, partial, name)
        done.append(("replace", name.name))

    monkeypatch.setattr(module, "sync_below", sync)
    monkeypatch.setattr(module, "move_below", move)
    return done


def test_a_file_is_synced_before_it_is_renamed(tmp_path: Path, synced: list[tuple[str, str]]) -> None:
    write(tmp_path / "a", "new")
    assert synced == [("sync", ".a.partial"), ("replace", "a")]


def test_a_batch_syncs_all_files_before_any_is_renamed(tmp_path: Path, synced: list[tuple[str, str]]) -> None:
    write(tmp_path / "b", "old")
    synced.clear()
    with batch_writes():
        write(tmp_path / "b", "newer")
        write(tmp_path / "a", "first")
        write(tmp_path / "a", "second")
        assert (tmp_path / "b").read_text() == "old" and not (tmp_path / "a").exists()
        write(tmp_path / "b", "newest")
    assert sorted(synced[:2]) == [("sync", ".a.partial"), ("sync", ".b.partial")]
    assert synced[2:] == [("replace", "a"), ("replace", "b")]  # the order in which they were written last
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "second", "b": "newest"}


def test_flush_writes_finishes_a_batch_early(tmp_path: Path) -> None:
    with batch_writes():
        write(tmp_path / "a", "new")
        flush_writes()
        assert (tmp_path / "a").read_text() == "new"
        write(tmp_path / "b", "new")
    assert (tmp_path / "b").read_text() == "new"


@pytest.mark.parametrize("together", [False, True])
def test_a_hard_link_is_to_the_newest_file(tmp_path: Path, together: bool) -> None:
    def write_and_link() -> None:
        write(tmp_path / "best", "new")
        assert atomic_link(tmp_path / "best", tmp_path / "last", tmp_path)

    write(tmp_path / "best", "old")
    if together:
        with batch_writes():
            write(tmp_path / "last", "old")
            write_and_link()
            write(tmp_path / "best", "newer")
    else:
        write_and_link()
        write(tmp_path / "best", "newer")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"best": "newer", "last": "new"}


def fail_writing(path: Path) -> None:
    with atomic_write(path) as file:
        file.write(b"half")
        raise OSError("the disk is full")


def test_a_failed_write_does_not_affect_the_others(tmp_path: Path) -> None:
    write(tmp_path / "a", "old")
    with batch_writes():
        write(tmp_path / "b", "new")
        write(tmp_path / "a", "newer")
        with pytest.raises(OSError, match="full"):
            fail_writing(tmp_path / "a")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "b": "new"}


def test_an_interruption_finishes_the_batch(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), batch_writes():
        write(tmp_path / "a", "new")
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_text() == "new"
    write(tmp_path / "b", "new")
    assert (tmp_path / "b").read_text() == "new"  # at once again


@pytest.mark.parametrize("together", [False, True])
def test_a_partial_file_of_a_killed_process_is_replaced(together: bool, tmp_path: Path) -> None:
    """It had written best and linked it as last, and was killed before either was renamed."""
    (tmp_path / ".best.partial").write_text("torn")
    os.link(tmp_path / ".best.partial", tmp_path / ".last.partial")
    with batch_writes() if together else nullcontext():
        write(tmp_path / "best", "best")
        write(tmp_path / "last", "last")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"best": "best", "last": "last"}


def test_a_failed_sync_does_not_affect_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(root: Path, name: Path) -> None:
        if name.name == ".b.partial":
            raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(module, "sync_below", full)
    with pytest.raises(OSError, match="no space left"), batch_writes():
        for name in "abc":
            write(tmp_path / name, name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


@pytest.mark.parametrize("name", ["a", ".a.partial"])
@pytest.mark.parametrize("together", [False, True])
def test_a_link_in_its_place_is_replaced_and_not_followed(name: str, together: bool, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("keep")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "victim")
    with batch_writes() if together else nullcontext():
        write(tmp_path / "run" / "a", "new")
    assert (tmp_path / "victim").read_text() == "keep"
    assert (tmp_path / "run" / "a").read_text() == "new" and not (tmp_path / "run" / "a").is_symlink()


def test_a_link_on_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "outside")
    with (
        pytest.raises(UserError, match="link"),
        atomic_write(tmp_path / "run" / "checkpoints" / "a", tmp_path / "run") as file,
    ):
        file.write(b"new")
    assert not list((tmp_path / "outside").iterdir())
