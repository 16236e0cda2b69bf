"""The fork server: a process that imports what all jobs need, once, and from which they are forked.

`start` starts it, at the very beginning of the command if possible; `set_modules` lists what it imports in addition to what
every run needs, as soon as the configs are known.
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

MODULES_VARIABLE = "GRIDLIGHT_PRELOAD"
"""Environment variable of the server: the id of its parent process and the file that will list its modules, <pid>:<file>."""


def start_early(argv: Sequence[str]) -> None:
    """Start the server if the unchecked command line appears to need it, and there is a second core."""
    from src.core.resources import usable_cores

    only_runs = {argument for argument in argv if argument.startswith("-")} <= {"-m", "--multirun"}
    launchers = {argument.partition("=")[2] for argument in argv if argument.startswith("hydra/launcher=")}
    is_dry = any(argument.startswith("sweep.dry_run=") for argument in argv)
    if only_runs and launchers <= {"local", "fused"} and not is_dry and usable_cores() > 1:
        with suppress(UserError):  # raised again when the server is needed
            start()


def start() -> None:
    """Start the server unless it is running.

    Raises:
        UserError: if the path of its socket is too long.
    """
    from multiprocessing import forkserver

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's BLAS starts its threads on import
    os.environ[MODULES_VARIABLE] = (
        f"{os.getpid()}:{_modules_file()}"  # not removed: the next job restarts a killed server
    )
    context.set_forkserver_preload(["src.sweeping.launchers.preload"])
    try:
        with _ignore_ctrl_c():
            forkserver.ensure_running()
    except OSError as error:
        if "path too long" not in str(error):
            raise
        raise UserError(
            f"{get_temp_dir()}: this path is too long for sockets; put TMPDIR=/tmp before the command"
        ) from error


def set_modules(modules: Sequence[str]) -> None:
    """List the modules that the server imports; later calls have no effect."""
    start()
    path = _modules_file()
    if not path.exists():
        partial = path.with_suffix(".part")
        partial.write_text(" ".join(modules))
        partial.rename(path)


def _modules_file() -> Path:
    """Return the file that lists the modules, in the folder of the server's socket, which is removed with this process."""
    return Path(get_temp_dir()) / "modules"


@contextmanager
def _ignore_ctrl_c() -> Iterator[None]:
    """Let processes that are started in this context ignore Ctrl-C from the beginning; the sweep handles it."""
    if current_thread() is not main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
