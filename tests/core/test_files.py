"""Files below a folder: no link is followed, only regular files are opened, and sizes are bounded."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from src.core.errors import UserError
from src.core.files import (
    append_below,
    create_below,
    is_file_below,
    make_folder_below,
    open_below,
    read_below,
    write_below,
)

NAMES = ["file", "folder/file"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    return tmp_path / "root"


@pytest.mark.parametrize("name", NAMES)
def test_a_regular_file_is_read(name: str, root: Path) -> None:
    (root / name).write_bytes(b"x" * 3_000_000)
    assert read_below(root, name) == b"x" * 3_000_000 and is_file_below(root, name)
    assert read_below(root, name, 3_000_000) == b"x" * 3_000_000
    with pytest.raises(UserError, match="MiB"):
        read_below(root, name, 2_999_999)
    (root / name).write_bytes(b"")
    assert read_below(root, name) == read_below(root, name, 0) == b""


@pytest.mark.parametrize("name", NAMES)
def test_the_root_may_be_reached_through_links(name: str, root: Path) -> None:
    (root / name).write_text("mine")
    (root.parent / "link").symlink_to(root)
    assert read_below(root.parent / "link", name) == b"mine" and is_file_below(root.parent / "link", name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder", "missing", "loop"])
def test_nothing_else_is_opened(name: str, kind: str, root: Path) -> None:
    file = root / name
    if kind == "link":
        file.symlink_to(root.parent / "secret")
    elif kind == "dangling":
        file.symlink_to(root.parent / "new")
    elif kind == "loop":
        file.symlink_to(file)
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    assert not is_file_below(root, name)
    for reach in (read_below, open_below):
        with pytest.raises((OSError, UserError)):
            reach(root, name)
    if kind != "missing":
        with pytest.raises((OSError, UserError)):
            append_below(root, name)
    assert not (root.parent / "new").exists() and (root.parent / "secret").read_text() == "secret"


@pytest.mark.parametrize("name", ["", ".", "..", "../secret", "/etc/passwd", "folder/../../secret"])
def test_names_that_leave_the_root_are_refused(name: str, root: Path) -> None:
    assert not is_file_below(root, name)
    with pytest.raises((OSError, UserError)):
        read_below(root, name)


def test_a_folder_that_is_a_link_is_not_entered(root: Path) -> None:
    (root / "away").symlink_to(root.parent)
    assert not is_file_below(root, "away/secret")
    with pytest.raises(UserError, match="link"):
        read_below(root, "away/secret")


@pytest.mark.parametrize("write", [lambda root: write_below(root, "run", b"x"), lambda root: create_below(root, "run")])
def test_a_folder_in_place_of_a_file_is_named(write: Callable[[Path], object], root: Path) -> None:
    (root / "run" / "below").mkdir(parents=True)
    with pytest.raises(UserError, match="run: this is a folder"):
        write(root)
    assert (root / "run" / "below").is_dir() and not list(root.glob(".*.partial"))


def test_a_file_in_place_of_a_folder_is_named(root: Path) -> None:
    (root / "run").write_text("x")
    for name in ("run", "run/below"):
        with pytest.raises(UserError, match="run: this is not a folder"):
            make_folder_below(root, name)
