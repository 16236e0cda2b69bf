"""The process that jobs are forked from: it imports what all of them need, once, while the sweep's command goes on.

`begin` starts it, at the very start of the command if possible; `finish` says what it imports beside what every run needs, as
soon as the configs tell.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.util import get_temp_dir
from pathlib import Path
from threading import current_thread, main_thread

from src.core.errors import UserError

context = get_context("forkserver")

LIST = "GRIDLIGHT_PRELOAD"
"""The environment variable that tells the server whose it is, and where the list of its modules will be: <process>:<file>."""


def begin_early(words: Sequence[str]) -> None:
    """Start the server if a command line, which is not checked yet, looks as if it needed one, and a second core is free."""
    from src.core.resources import usable_cores

    only_runs = {word for word in words if word.startswith("-")} <= {"-m", "--multirun"}
    launchers = {word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")}
    is_dry = any(word.startswith("sweep.dry_run=") for word in words)
    if only_runs and launchers <= {"local", "fused"} and not is_dry and usable_cores() > 1:
        with suppress(UserError):  # it is told when the server is needed
            begin()


def begin() -> None:
    """Start the server, if it does not run.

    Raises:
        UserError: if its socket has no place.
    """
    from multiprocessing import forkserver

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's library would start its threads when it is imported
    os.environ[LIST] = f"{os.getpid()}:{_listed()}"  # and so it stays: the next job starts a killed server anew
    context.set_forkserver_preload(["src.sweeping.launchers.preload"])
    try:
        with _deaf_to_ctrl_c():
            forkserver.ensure_running()
    except OSError as error:
        if "path too long" not in str(error):
            raise
        raise UserError(f"{get_temp_dir()}: too long a path for sockets; TMPDIR=/tmp in front helps") from error


def finish(modules: Sequence[str]) -> None:
    """Say which modules the server imports in the end; only the first list counts."""
    begin()
    listed = _listed()
    if not listed.exists():
        unfinished = listed.with_suffix(".part")
        unfinished.write_text(" ".join(modules))
        unfinished.rename(listed)


def _listed() -> Path:
    """Return where the list is: in the folder of the server's socket, which goes with this process."""
    return Path(get_temp_dir()) / "modules"


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Start what is started below deaf to Ctrl-C, from its first moment: that is the sweep's to handle."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
