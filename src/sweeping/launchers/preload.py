"""What the fork server imports before its first job: everything that a run needs, once for all jobs, and what the list names
for which `src.sweeping.launchers.fork_server` waits.

Nothing here may start a thread or touch a GPU: neither survives a fork.
"""

import gc
import os
import signal
import sys
import time
from pathlib import Path

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle

from src.core.process import end_with_parent  # noqa: E402
from src.sweeping.launchers.fork_server import LIST  # noqa: E402

driver, _, place = os.environ[LIST].partition(":")
end_with_parent(int(driver))

from importlib import import_module  # noqa: E402

from src.run_store.provenance import remember  # noqa: E402


def listed() -> list[str]:
    """Return what the sweep's command lists, when it does; end with that command."""
    while not Path(place).exists():
        if os.getppid() != int(driver):
            sys.exit()
        time.sleep(0.002)
    return Path(place).read_text().split()


for name in (
    "src.training.build",
    "src.sweeping.worker_callback",
    "torch.utils.serialization.config",  # the first checkpoint asks for these
    "torch.utils._device",
    "fsspec.implementations.chained",
    "numpy.ma",
    "numpy.random",
    "src.diagnostics.schedule_preview",
    *(f"PIL.{kind}ImagePlugin" for kind in ("Bmp", "Gif", "Jpeg", "Png", "Ppm")),  # what the first picture asks for
):
    import_module(name)
for name in listed():
    import_module(name)

remember()  # jobs run the code that was imported here, whatever is edited later
gc.collect()
gc.freeze()  # a collection in a child would copy every page that it marks
