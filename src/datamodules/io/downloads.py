"""Public files: found under paths.data, else downloaded, checked, and refused by name where they are wrong.

A download is written beside its place and moved there when it is complete and right, by one process at a time; what an
interrupted one left is continued. What is checked is the contents, so that a file that was recompressed is as good as
the original.
"""

import gzip
import hashlib
import logging
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from io import BytesIO
from pathlib import Path

from filelock import FileLock

from src.core.errors import UserError
from src.core.escape import line
from src.core.files import UnsafeFileError, is_file_below, make_folder_below, read_data_file

log = logging.getLogger(__name__)

LARGEST_BYTES = 2**29
"""Bytes that no public file has, packed or unpacked; CIFAR-10 unpacks to 186 MB."""
_CHUNK = 1 << 16
_TIMEOUT = 20.0
"""Seconds without an answer after which a server counts as out of reach."""


@dataclass(frozen=True)
class PublicFile:
    """One file of a public data set.

    Args:
        url: its public address.
        path: where it belongs under ``paths.data``.
        sha256: of the contents, decompressed where the name ends in ``.gz``.
        packed: MD5 or SHA-256 of the file as it is published, for a compressed one of which only that is known.
        lines: of the contents, which must do where no sum is known, or only that of a file that was unpacked since.
        also: other places under ``paths.data`` where people keep it, with or without ``.gz``.
    """

    url: str
    path: str
    sha256: str | None = None
    packed: str | None = None
    lines: int | None = None
    also: tuple[str, ...] = ()

    def read(self, data_dir: Path, verify: bool = True, write_dir: Path | None = None) -> bytes:
        """Return the contents, after a download where the file is missing.

        Args:
            data_dir: ``paths.data``.
            verify: refuse contents with another checksum.
            write_dir: where a download goes, and is found too; None writes to `data_dir`.

        Raises:
            UserError: if the file is missing and cannot be had, cannot be read, or is not the published one.
        """
        found = self.find(data_dir, write_dir)
        if found is None:
            own = write_dir or data_dir
            found = own / self.path
            download(self.url, own, self.path, lambda partial: self._settled(partial, found, verify))
        try:
            raw, contents = _unpacked(found)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{found}: this file is damaged: {error}. Delete it, and it is fetched again") from error
        if verify and not self._is_right(raw, contents):
            raise UserError(
                f"{found}: {len(contents):,} bytes of contents that are not those published at {self.url}. Delete the "
                "file, and it is fetched again; datamodule.verify=false takes it as it is"
            )
        return contents

    def find(self, data_dir: Path, write_dir: Path | None = None) -> Path | None:
        """Return where the file lies, if it does; see `read`."""
        names = [name for path in (self.path, *self.also) for name in (path, path.removesuffix(".gz"))]
        places = [folder / name for folder in dict.fromkeys((data_dir, write_dir or data_dir)) for name in names]
        return next((place for place in places if place.is_file()), None)

    def _is_right(self, raw: bytes, contents: bytes) -> bool:
        if self.sha256 is not None:
            return has_sum(contents, self.sha256)
        if self.packed is not None and has_sum(raw, self.packed):
            return True
        if self.lines is not None:
            return contents.rstrip(b"\r\n").count(b"\n") + 1 == self.lines
        return self.packed is None

    def _settled(self, partial: Path, target: Path, verify: bool) -> bool:
        """Move a download to its place if it is the published file."""
        try:
            right = self._is_right(*_unpacked(partial)) or not verify
        except (OSError, EOFError, zlib.error, UnsafeFileError):
            return False
        if right:
            os.replace(partial, target)
        return right


def has_sum(contents: bytes, expected: str) -> bool:
    """Tell whether contents have a checksum: MD5 where it has 32 digits, else SHA-256."""
    return (
        hashlib.new("md5" if len(expected) == 32 else "sha256", contents, usedforsecurity=False).hexdigest() == expected
    )


def _unpacked(path: Path) -> tuple[bytes, bytes]:
    """Return a file as it is, and its contents.

    Raises:
        OSError, EOFError, zlib.error: if it cannot be read, or is damaged.
        UserError: if it is not a regular file, or larger than any public one.
    """
    raw = read_data_file(path, LARGEST_BYTES)
    if raw[:2] != b"\x1f\x8b":
        return raw, raw
    with gzip.GzipFile(fileobj=BytesIO(raw)) as packed:
        contents = packed.read(LARGEST_BYTES + 1)
    if len(contents) > LARGEST_BYTES:
        raise UnsafeFileError(f"{path}: this file unpacks to more than {LARGEST_BYTES / 2**20:,.0f} MiB")
    return raw, contents


def download(url: str, root: Path, name: str, settled: Callable[[Path], bool]) -> None:
    """Download what is missing; once, however many processes miss it.

    Args:
        url: where it is.
        root: the folder of data, which is made if it is missing.
        name: where it belongs below that; nothing is done if it is there, or another process has put it there meanwhile.
        settled: given the downloaded file, puts it in its place and returns True, or False if it is a wrong one.

    Raises:
        UserError: if it cannot be had, or is wrong, or if a folder on the way to it is a link.
    """
    target = root / name
    if target.exists():
        return
    partial = target.with_name(f".{target.name}.partial")
    by_hand = f"Its address: {url}\nPut it there, or set paths.data (or GRIDLIGHT_DATA) to where it lies"
    try:
        root.mkdir(parents=True, exist_ok=True)
        make_folder_below(root, target.parent.relative_to(root))  # never through a link
        lock = target.with_name(".download.lock")
        for own in (lock, partial):  # neither is written through a link, and a pipe has no end
            if os.path.lexists(own) and not is_file_below(target.parent, own.name):
                own.unlink()
        with FileLock(lock):
            while not target.exists():
                continued = partial.is_file()
                fetch(url, partial)
                if settled(partial):
                    return
                size = partial.stat().st_size
                partial.unlink()
                if not continued:  # else the earlier part was wrong
                    raise UserError(
                        f"{target} is missing, and the {size:,} bytes that were sent for it are not the "
                        f"published file; a network that wants a login answers like this.\n{by_hand}"
                    )
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UserError(f"{target} is missing and cannot be downloaded ({reason}).\n{by_hand}") from error


def fetch(url: str, partial: Path) -> None:
    """Download a file, from where an earlier try ended, with a bar on a terminal.

    Raises:
        OSError, HTTPException: if the server cannot be reached, refuses, or breaks off; what has come is kept.
    """
    have = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    log.info("downloading %s", url)
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        if error.headers.get("Content-Range") != f"bytes */{have}":  # else all of it is here
            partial.unlink()
            fetch(url, partial)
        return
    with answer:
        if answer.status != 206:  # the server sends the whole file
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            open(partial, "ab" if have else "wb", opener=_without_links) as file,
            _bar(partial.name.strip(".").removesuffix(".partial")) as bar,
        ):
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                bar(have, total)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and have < total:
        raise OSError(f"the connection broke off after {have:,} of {total:,} bytes")


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


class _bar:
    """A progress bar of bytes on a terminal, nothing elsewhere; called with the bytes that are there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> "_bar":
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        from src.core.console import on_terminal

        columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        self.progress = Progress(*columns, transient=True, disable=not on_terminal())
        self.task = self.progress.add_task(line(self.name), total=None)
        self.progress.start()
        return self

    def __call__(self, have: int, total: int | None) -> None:
        self.progress.update(self.task, completed=have, total=total)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
