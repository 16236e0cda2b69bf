"""The process that jobs are forked from: it imports what all of them need, once, while the sweep's command goes on.

`begin` starts it, at the very start of the command if possible; `finish` says what it imports beside what every run needs, as
soon as the configs tell.
"""

import os
import tempfile
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

context = get_context("forkserver")

LIST = "GRIDLIGHT_PRELOAD"
"""The environment variable that tells the server where the list of its modules will be."""

_folder: tempfile.TemporaryDirectory[str] | None = None


def begin_early(words: Sequence[str]) -> None:
    """Start the server if a command line, which is not checked yet, looks as if it needed one, and a second core is free."""
    from src.datamodules.memory import usable_cores

    only_runs = {word for word in words if word.startswith("-")} <= {"-m", "--multirun"}
    launchers = {word.partition("=")[2] for word in words if word.startswith("hydra/launcher=")}
    is_dry = any(word.startswith("sweep.dry_run=") for word in words)
    if only_runs and launchers <= {"local", "fused"} and not is_dry and usable_cores() > 1:
        begin()


def begin() -> None:
    """Start the server, if it does not run."""
    global _folder
    from multiprocessing import forkserver

    if _folder is None:
        _folder = tempfile.TemporaryDirectory(prefix="gridlight-")
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's library would start its threads when imported
        os.environ[LIST] = str(Path(_folder.name) / "modules")
        context.set_forkserver_preload(["src.sweeping.warm"])
        forkserver.ensure_running()
        del os.environ[LIST]


def finish(modules: Sequence[str]) -> None:
    """Say which modules the server imports in the end; only the first list counts."""
    begin()
    assert _folder is not None
    listed = Path(_folder.name) / "modules"
    if not listed.exists():
        unfinished = listed.with_suffix(".part")
        unfinished.write_text(" ".join(modules))
        unfinished.rename(listed)
