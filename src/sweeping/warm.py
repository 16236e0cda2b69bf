"""What the fork server imports before its first job: everything that a run needs, once for all jobs; of the models and the
data those that GRIDLIGHT_PRELOAD names, or all.

Nothing here may start a thread or touch a GPU: neither survives a fork.
"""

import gc
import os
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle

from src.sweeping.lifeline import end_with_parent  # noqa: E402

end_with_parent()

from importlib import import_module  # noqa: E402

from src.config.schema import SCHEMAS  # noqa: E402
from src.tracking.provenance import remember  # noqa: E402

every = [target.rpartition(".")[0] for group in ("model", "datamodule") for target in SCHEMAS[group]]
chosen = os.environ.get("GRIDLIGHT_PRELOAD", "").split()
for name in (
    "src.experiment",
    "src.sweeping.reporting",
    "torch.utils.serialization.config",  # the first checkpoint asks for these
    "fsspec.implementations.chained",
    "numpy.ma",
    *(chosen or every),
):
    import_module(name)

remember()  # jobs run the code that was imported here, whatever is edited later
gc.collect()
gc.freeze()  # a collection in a child would copy every page that it marks
