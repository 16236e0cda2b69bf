"""The callbacks of a run, from the dict-shaped config group."""

import inspect

from lightning.pytorch.callbacks import Callback

from src.config.combinations import monitor_of
from src.config.locate import locate
from src.config.schema.run import Config
from src.run_store.run_folder import RunFolder


def build_callbacks(config: Config, folder: RunFolder, task: str, verbose: bool = True) -> list[Callback]:
    """Make every entry of the group that is not null.

    A callback whose constructor takes `monitor`, `mode`, `dirpath` or `folder` is given the run's own, unless its
    config says something else. One whose `off` is true, as its knob asks for nothing, is left out. Without `verbose`, so
    is one whose class has `is_console_output`.
    """
    monitor, mode = monitor_of(config, task)
    offered = {"monitor": monitor, "mode": mode, "dirpath": folder.checkpoints, "folder": folder}
    callbacks = []
    for key, entry in config.callbacks.items():
        if entry is None:
            continue
        settings = dict(entry)
        cls = locate(settings.pop("_target_", ""), Callback, f"callbacks.{key}._target_")
        if getattr(cls, "is_console_output", False) and not verbose:
            continue
        takes = inspect.signature(cls).parameters
        callback = cls(**({name: value for name, value in offered.items() if name in takes} | settings))
        if not getattr(callback, "off", False):
            callbacks.append(callback)
    return callbacks
