"""Imported by the fork server before its first job: import everything that a run needs, and the modules that
`src.sweeping.launchers.fork_server` lists.

Nothing here may start a thread or use a GPU: neither survives a fork.
"""

import gc
import os
import signal
import sys
import time
from pathlib import Path

signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles Ctrl-C

from src.core.process import set_parent_death_signal  # noqa: E402
from src.sweeping.launchers.fork_server import MODULES_VARIABLE  # noqa: E402

driver, _, modules_file = os.environ[MODULES_VARIABLE].partition(":")
set_parent_death_signal(int(driver))

from importlib import import_module  # noqa: E402

from src.run_store.provenance import cache_provenance  # noqa: E402


def wait_for_modules() -> list[str]:
    """Wait until the sweep's command has listed its modules, and return them; exit if that command ends."""
    while not Path(modules_file).exists():
        if os.getppid() != int(driver):
            sys.exit()
        time.sleep(0.002)
    return Path(modules_file).read_text().split()


for name in (
    "src.training.run",
    "src.sweeping.worker_callback",
    "torch.utils.serialization.config",  # imported by the first checkpoint
    "torch.utils._device",
    "fsspec.implementations.chained",
    "numpy.ma",
    "numpy.random",
    "src.diagnostics.schedule_preview",
    *(f"PIL.{kind}ImagePlugin" for kind in ("Bmp", "Gif", "Jpeg", "Png", "Ppm")),  # imported by the first image
):
    import_module(name)
for name in wait_for_modules():
    import_module(name)

cache_provenance()  # jobs run the code that was imported here, even if files are edited later
gc.collect()
gc.freeze()  # a collection in a child would copy every page
