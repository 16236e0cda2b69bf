"""A file for parsers of other packages, which may read a hostile file byte by byte, or all of it at once."""

import io
import os
from pathlib import Path

from src.core.files import UnsafeFileError, open_data_file


class LimitedReader(io.BufferedReader):
    """A data file of a limited size that allows a limited number of reads.

    Args:
        path: see `src.core.files.open_data_file`.
        max_bytes: largest size of the file.
        max_reads: largest number of reads.

    Raises:
        OSError: if there is no such file.
        UnsafeFileError: if it is larger, or not a regular file.
    """

    def __init__(self, path: Path, max_bytes: int, max_reads: int) -> None:
        super().__init__(open_data_file(path).detach())  # type: ignore[attr-defined]  # a buffered file
        self._remaining = max_reads
        if os.fstat(self.fileno()).st_size > max_bytes:
            self.close()
            raise UnsafeFileError(f"{path}: this file has more than {max_bytes / 2**20:,.0f} MiB")

    def read(self, size: int | None = -1, /) -> bytes:
        self._remaining -= 1
        if self._remaining < 0:
            raise ValueError("it has too many parts")
        return super().read(size)
