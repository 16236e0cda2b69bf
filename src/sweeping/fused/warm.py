"""What the fork server of a fused sweep imports before its first group, beside what every run needs."""

import gc
from importlib import import_module

for name in ("src.sweeping.warm", "src.sweeping.fused.worker"):  # in this order: the first sees to signals
    import_module(name)

gc.collect()
gc.freeze()
