"""Print escaped text, numbers and durations. Tables are in `src.core.tables`."""

import argparse
import functools
import logging
import math
import sys
import traceback
import warnings
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, SupportsFloat

from src.core.escape import line, terminal


def echo(*values: object, sep: str = " ", end: str = "\n", file: IO[str] | None = None, flush: bool = False) -> None:
    """Print values like `print`, with control characters escaped (`src.core.escape.terminal`).

    Escaped JSON is the same JSON.

    Args:
        values, sep, end, file, flush: as in `print`; only the values are escaped.
    """
    print(*map(terminal, values), sep=sep, end=end, file=file, flush=flush)


class Parser(argparse.ArgumentParser):
    """An argument parser that escapes its errors, because a shell pattern can expand to any file name."""

    def error(self, message: str) -> NoReturn:
        super().error(terminal(message))


class LogFormatter(logging.Formatter):
    """Formats log records, tracebacks included, with control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return terminal(super().format(record))


def escape_diagnostics() -> None:
    """Escape warnings, tracebacks, and log messages without a handler. A second call has no effect."""
    if isinstance(sys.excepthook, functools.partial) and sys.excepthook.func is _print_traceback:
        return
    sys.excepthook = functools.partial(_print_traceback, sys.excepthook)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(LogFormatter())
    warnings.showwarning = _print_warning


def _print_traceback(
    default: Any, kind: type[BaseException], error: BaseException, frames: TracebackType | None
) -> None:
    text = "".join(traceback.format_exception(kind, error, frames))
    if sys.stderr is None or default is not sys.__excepthook__:  # a debugger or a notebook has its own hook
        default(kind, error, frames)
    else:
        echo(text, end="", file=sys.stderr, flush=True)


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    file = sys.stderr if file is None else file
    if file is not None:
        echo(warnings.formatwarning(message, category, filename, lineno, line), end="", file=file)


LOG_WIDTH = 200
"""Minimum width of a table in a log, where the width of the reader's window is unknown."""


def on_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def format_number(value: object) -> str:
    """Return a number with four significant digits, a dash for None, and any other value as text."""
    if value is None:
        return "-"
    try:
        return f"{value:.4g}" if isinstance(value, SupportsFloat) and math.isfinite(value) else str(value)
    except (OverflowError, TypeError, ValueError):  # an integer of a record that does not fit into a float
        return str(value)


def format_duration(seconds: float) -> str:
    """Format a duration: 0.4 s, 12 s, 3:07 min, 1:02:45 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d} h"


def display_path(path: Path) -> str:
    """Return a path for a message, on one line, and relative to the working directory if it is below it."""
    return line(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
