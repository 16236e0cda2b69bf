"""What the fork server imports before its first job: everything that a run needs, once for all jobs.

Nothing here may start a thread or touch a GPU: neither survives a fork.
"""

import gc
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle

import lightning.pytorch.loggers  # noqa: E402
import sklearn.datasets  # noqa: E402
import torch._dynamo  # noqa: E402  the first optimizer step imports it
import torchmetrics.classification  # noqa: E402

import src.experiment  # noqa: E402
import src.sweeping.worker  # noqa: E402, F401
from src.config.schema import SCHEMAS  # noqa: E402
from src.tracking.provenance import remember  # noqa: E402

for target in (*SCHEMAS["model"], *SCHEMAS["datamodule"]):
    __import__(target.rpartition(".")[0])

remember()  # jobs run the code that was imported here, whatever is edited later
gc.collect()
gc.freeze()  # a collection in a child would copy every page that it marks
