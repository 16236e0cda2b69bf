"""Build the callbacks of a run from the config group `callbacks`."""

import inspect

from lightning.pytorch.callbacks import Callback

from src.config.combinations import monitor_of
from src.config.locate import locate
from src.config.schema.run import Config
from src.run_store.run_folder import RunFolder


def build_callbacks(config: Config, folder: RunFolder, task: str, verbose: bool = True) -> list[Callback]:
    """Build every callback of the group that is not null.

    Constructor arguments named `monitor`, `mode`, `dirpath` or `folder` default to those of the run. Callbacks whose `off`
    is true, as their option disables them, are left out; without `verbose`, also those with `is_console_output`.
    """
    monitor, mode = monitor_of(config, task)
    defaults = {"monitor": monitor, "mode": mode, "dirpath": folder.checkpoints, "folder": folder}
    callbacks = []
    for key, entry in config.callbacks.items():
        if entry is None:
            continue
        settings = dict(entry)
        cls = locate(settings.pop("_target_", ""), Callback, f"callbacks.{key}._target_")
        if getattr(cls, "is_console_output", False) and not verbose:
            continue
        parameters = inspect.signature(cls).parameters
        arguments = {name: value for name, value in defaults.items() if name in parameters}
        callback = cls(**(arguments | settings))
        if not getattr(callback, "off", False):
            callbacks.append(callback)
    return callbacks
