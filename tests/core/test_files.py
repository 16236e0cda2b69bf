"""Files below a folder: no link is followed, only regular files are opened, and sizes are bounded."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from src.core.errors import UserError
from src.core.files import (
    MAX_FOLDER_DEPTH,
    UnsafeFileError,
    append_below,
    confine,
    copy_tree_below,
    create_below,
    is_file_below,
    links_that_leave,
    make_folder_below,
    open_below,
    read_below,
    walk,
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
def test_only_regular_files_are_opened(name: str, kind: str, root: Path) -> None:
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


@pytest.mark.parametrize("name", ["file/x", "file/x/y"])
def test_a_file_in_place_of_a_parent_folder_is_named(name: str, root: Path) -> None:
    (root / "file").write_text("in the way")
    with pytest.raises(UserError, match=f"{root / 'file'}: this is not a folder"):
        write_below(root, name, "", make=True)


def test_a_folder_that_is_a_link_is_not_entered(root: Path) -> None:
    (root / "away").symlink_to(root.parent)
    assert not is_file_below(root, "away/secret")
    with pytest.raises(UserError, match="link"):
        read_below(root, "away/secret")


def test_nested_folders_are_searched_to_a_maximum_depth(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(MAX_FOLDER_DEPTH):
        folder = folder / "a"
        folder.mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    found = list(walk(tmp_path, strict=True))
    assert len(found) == MAX_FOLDER_DEPTH + 1 and found[0][0] == str(tmp_path)
    (folder / "b").mkdir()
    assert len(list(walk(tmp_path))) == MAX_FOLDER_DEPTH + 1
    for refused in (
        lambda: list(walk(tmp_path, strict=True)),
        lambda: links_that_leave(tmp_path),
        lambda: copy_tree_below(tmp_path, ".", tmp_path.parent / "copy", leave_out=["link"]),
    ):
        with pytest.raises(UnsafeFileError, match="nested deeper"):
            refused()


def test_walk_is_equal_to_os_walk(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/d", ".e/f"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    (tmp_path / "a" / "link").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to("loop")

    def plain(found: Iterable[tuple[str, list[str], list[str]]]) -> list[tuple[str, list[str], list[str]]]:
        return sorted((place, sorted(below), sorted(files)) for place, below, files in found)

    assert plain(walk(tmp_path)) == plain(os.walk(tmp_path))


def test_walk_lists_links_but_does_not_follow_them(root: Path) -> None:
    (root / "away").symlink_to(root.parent)
    (root / "circle").symlink_to("circle")
    found = {folder: (set(below), set(others)) for folder, below, others in walk(root)}
    assert found[str(root)] == (
        {"folder", "away"},
        {"circle", *(path.name for path in root.iterdir() if path.is_file())},
    )
    assert set(found) == {str(root), str(root / "folder")}


def test_folders_of_any_depth_are_walked_without_recursion(root: Path) -> None:
    folders = [f"{root}{'/a' * depth}" for depth in range(1, 1100)]  # Python's recursion limit is 1000
    for folder in folders:
        os.mkdir(folder)
    try:
        assert sum(1 for _ in walk(root)) <= MAX_FOLDER_DEPTH + 2
        with pytest.raises(UserError, match="nested deeper"):
            links_that_leave(root)
        with pytest.raises(UserError, match="nested deeper"):
            copy_tree_below(root, ".", root.parent / "copy")
    finally:
        for folder in reversed(folders):  # pytest removes its folders recursively
            os.rmdir(folder)


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


@pytest.mark.skipif(not hasattr(os.stat_result, "st_blocks"), reason="allocated blocks of POSIX")
def test_a_copied_sparse_file_stays_sparse(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "file").open("wb") as file:
        file.write(b"start")
        file.truncate(2**26)
        file.seek(2**25)
        file.write(b"middle")
    copy_tree_below(source, ".", tmp_path / "copy")
    assert (tmp_path / "copy" / "file").read_bytes() == (source / "file").read_bytes()
    assert (tmp_path / "copy" / "file").stat().st_blocks * 512 <= 2**22


def test_a_confined_folder_is_not_followed_when_it_becomes_a_link(tmp_path: Path) -> None:
    victim, job = tmp_path / "victim", tmp_path / "sweep" / "job"
    victim.mkdir()
    job.mkdir(parents=True)
    confine(job)
    write_below(job, "run.json", "{}")
    assert read_below(job, "run.json") == b"{}"
    job.rename(tmp_path / "sweep" / "moved")
    job.symlink_to(victim)
    for write in (write_below, lambda *arguments: append_below(*arguments[:2])):
        with pytest.raises(UserError, match="this is a link"):
            write(job, "run.json", "{}")
    with pytest.raises(UserError, match="this is a link"):
        make_folder_below(job, "plots")
    assert list(victim.iterdir()) == []
