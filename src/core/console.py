"""Printing text that may come from someone else: control characters are visible, and nothing acts on the terminal."""

import argparse
import functools
import logging
import sys
import traceback
import warnings
from types import TracebackType
from typing import IO, Any, NoReturn

from src.core.escape import terminal


def echo(*values: object, sep: str = " ", end: str = "\n", file: IO[str] | None = None, flush: bool = False) -> None:
    """Print values like `print`, with every control character of them escaped (`src.core.escape.terminal`).

    JSON stays the same JSON.

    Args:
        values, sep, end, file, flush: as in `print`; only the values are escaped.
    """
    print(*map(terminal, values), sep=sep, end=end, file=file, flush=flush)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are escaped: a shell pattern can expand to a file name of someone else."""

    def error(self, message: str) -> NoReturn:
        super().error(terminal(message))


class LogFormatter(logging.Formatter):
    """Formats log records, tracebacks included, with control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return terminal(super().format(record))


def escape_diagnostics() -> None:
    """Escape warnings, tracebacks, and log messages that no handler of ours shows. A second call has no effect."""
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
    if sys.stderr is None or default is not sys.__excepthook__:  # a debugger or a notebook shows it in its own way
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
