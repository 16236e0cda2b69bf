"""Public files: searched under paths.data, else downloaded; their checksums are verified.

A download is written to a temporary file and moved to its path when it is complete and verified, by one process at a
time; an interrupted download is continued. The uncompressed contents are verified, so a recompressed file is accepted.
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

from src.core.console import on_terminal
from src.core.errors import UserError
from src.core.escape import line
from src.core.files import UnsafeFileError, is_file_below, make_folder_below, read_data_file

log = logging.getLogger(__name__)

MAX_BYTES = 2**29
"""Largest size of a public file, compressed or not; CIFAR-10 has 186 MB."""
_CHUNK = 1 << 16
_TIMEOUT = 20.0
"""Seconds without a response after which a server counts as unreachable."""


@dataclass(frozen=True)
class PublicFile:
    """One file of a public data set.

    Args:
        url: public URL.
        path: path under ``paths.data``.
        sha256: SHA-256 of the contents, decompressed if the name ends in ``.gz``.
        packed: MD5 or SHA-256 of the published compressed file, if only that is known.
        lines: number of lines of the contents: the check if no checksum is known, or if only that of the compressed
            file is known and the file was decompressed.
        also: other common paths under ``paths.data``, with or without ``.gz``.
    """

    url: str
    path: str
    sha256: str | None = None
    packed: str | None = None
    lines: int | None = None
    also: tuple[str, ...] = ()

    def read(self, data_dir: Path, verify: bool = True, write_dir: Path | None = None) -> bytes:
        """Return the contents; download the file if it is missing.

        Args:
            data_dir: ``paths.data``.
            verify: reject contents with a different checksum.
            write_dir: folder of downloads, which is searched too; None: `data_dir`.

        Raises:
            UserError: if the file cannot be downloaded, cannot be read, or is not the published one.
        """
        path = self.find(data_dir, write_dir)
        if path is None:
            folder = write_dir or data_dir
            path = target = folder / self.path
            download(self.url, folder, self.path, lambda partial: self._commit(partial, target, verify))
        try:
            raw, contents = _read_unpacked(path)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: this file is damaged: {error}. Delete it to download it again") from error
        if verify and not self._is_published(raw, contents):
            raise UserError(
                f"{path}: the contents ({len(contents):,} bytes) differ from those published at {self.url}. Delete the "
                "file to download it again, or set datamodule.verify=false to use it unverified"
            )
        return contents

    def read_text(self, data_dir: Path, verify: bool = True, write_dir: Path | None = None) -> str:
        """Return the contents as text; see `read`.

        Raises:
            UserError: as `read`, or if the file is not UTF-8 text.
        """
        contents = self.read(data_dir, verify, write_dir)
        try:
            return contents.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            path = self.find(data_dir, write_dir)
            raise UserError(f"{path}: this file is not UTF-8 text (byte {error.start})") from error

    def find(self, data_dir: Path, write_dir: Path | None = None) -> Path | None:
        """Return the path of the file, or None if it is missing; see `read`."""
        names = [name for path in (self.path, *self.also) for name in (path, path.removesuffix(".gz"))]
        paths = [folder / name for folder in dict.fromkeys((data_dir, write_dir or data_dir)) for name in names]
        return next((path for path in paths if path.is_file()), None)

    def _is_published(self, raw: bytes, contents: bytes) -> bool:
        if self.sha256 is not None:
            return has_checksum(contents, self.sha256)
        if self.packed is not None and has_checksum(raw, self.packed):
            return True
        if self.lines is not None:
            return contents.rstrip(b"\r\n").count(b"\n") + 1 == self.lines
        return self.packed is None

    def _commit(self, partial: Path, target: Path, verify: bool) -> bool:
        """Move a download to its path if it is the published file; return whether it is."""
        try:
            accepted = self._is_published(*_read_unpacked(partial)) or not verify
        except (OSError, EOFError, zlib.error, UnsafeFileError):
            return False
        if accepted:
            os.replace(partial, target)
        return accepted


def has_checksum(contents: bytes, expected: str) -> bool:
    """Return whether contents have a checksum: MD5 if it has 32 digits, else SHA-256."""
    algorithm = "md5" if len(expected) == 32 else "sha256"
    return hashlib.new(algorithm, contents, usedforsecurity=False).hexdigest() == expected


def _read_unpacked(path: Path) -> tuple[bytes, bytes]:
    """Return the raw bytes of a file, and its decompressed contents.

    Raises:
        OSError, EOFError, zlib.error: if the file cannot be read or is damaged.
        UserError: if it is not a regular file, or exceeds `MAX_BYTES`.
    """
    raw = read_data_file(path, MAX_BYTES)
    if raw[:2] != b"\x1f\x8b":
        return raw, raw
    with gzip.GzipFile(fileobj=BytesIO(raw)) as packed:
        contents = packed.read(MAX_BYTES + 1)
    if len(contents) > MAX_BYTES:
        raise UnsafeFileError(f"{path}: this file unpacks to more than {MAX_BYTES / 2**20:,.0f} MiB")
    return raw, contents


def download(url: str, root: Path, name: str, commit: Callable[[Path], bool]) -> None:
    """Download a missing file or folder; once, even if several processes need it.

    Args:
        url: URL of the file.
        root: the data folder, which is created if it is missing.
        name: path below `root`; nothing is done if it exists, or if another process creates it meanwhile.
        commit: moves the downloaded file to its path and returns True, or returns False if it is not the expected one.

    Raises:
        UserError: if the download fails or is rejected, or if a folder on the path is a link.
    """
    target = root / name
    if target.exists():
        return
    partial = target.with_name(f".{target.name}.partial")
    by_hand = f"Its address: {url}\nPut it there, or set paths.data (or GRIDLIGHT_DATA) to its folder"
    try:
        root.mkdir(parents=True, exist_ok=True)
        make_folder_below(root, target.parent.relative_to(root))  # does not follow links
        lock = target.with_name(".download.lock")
        for path in (lock, partial):  # replace links and pipes
            if os.path.lexists(path) and not is_file_below(target.parent, path.name):
                path.unlink()
        with FileLock(lock):
            while not target.exists():
                continued = partial.is_file()
                fetch(url, partial)
                if commit(partial):
                    return
                size = partial.stat().st_size
                partial.unlink()
                if not continued:  # else the earlier part may be wrong: try again
                    raise UserError(
                        f"{target} is missing, and the downloaded {size:,} bytes are not the published file; "
                        f"the cause may be the login page of a network.\n{by_hand}"
                    )
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise UserError(f"{target} is missing and cannot be downloaded ({reason}).\n{by_hand}") from error


def fetch(url: str, partial: Path) -> None:
    """Download a file with a progress bar, continuing an earlier partial download.

    Raises:
        OSError, HTTPException: if the server is unreachable, refuses, or disconnects; the partial file remains.
    """
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TransferSpeedColumn,
    )  # lazy: start-up time

    size = partial.stat().st_size if partial.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={size}-"} if size else {})
    log.info("downloading %s", url)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not size:
            raise
        if error.headers.get("Content-Range") != f"bytes */{size}":  # else the file is complete
            partial.unlink()
            fetch(url, partial)
        return
    with response:
        if response.status != 206:  # the server sends the whole file
            size = 0
        length = response.headers.get("Content-Length")
        total = size + int(length) if length else None
        columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        with (
            open(partial, "ab" if size else "wb", opener=_open_without_links) as file,
            Progress(*columns, transient=True, disable=not on_terminal()) as progress,
        ):
            task = progress.add_task(
                line(partial.name.strip(".").removesuffix(".partial")), total=total, completed=size
            )
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                size += len(chunk)
                progress.update(task, completed=size)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and size < total:
        raise OSError(f"the connection broke off after {size:,} of {total:,} bytes")


def _open_without_links(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
