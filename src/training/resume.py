"""The config of a resumed run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.config.compose import update
from src.config.trust import literal_config, name_external_data
from src.core.errors import UserError

if TYPE_CHECKING:
    from src.config.schema.run import Config
    from src.run_store.run_folder import RunFolder

_MAY_CHANGE = (
    "trainer.max_",
    "trainer.devices",
    "trainer.accelerator",
    "trainer.log_every_n_steps",
    "regularization.early_stopping_patience",
    "model.checkpoint_activations",
    "datamodule.path",
    "datamodule.val_path",
    "datamodule.test_path",
    "datamodule.target_path",
    "callbacks.",
    "logger",
    "paths.",
    "tags",
    "notes",
)
"""Beginnings of the keys that a resumed run may change: where its files lie now, for one. The optimizer's state comes
from the checkpoint."""


def resumed(path: str, words: Sequence[str]) -> tuple["Config", "RunFolder"]:
    """Return the recorded config of a run, with single keys changed, and its folder.

    Args:
        path: the run folder.
        words: the command line; ``resume=…`` and Hydra's own words in it are left out.

    Raises:
        UserError: if there is no such run, if it is finished and nothing asks for more, or if a key is wrong.
    """
    from src.config.validate import check
    from src.run_store.run_folder import RunFolder

    if not path.strip():
        raise UserError("resume= must name a run folder: resume=outputs/runs/…")
    folder = RunFolder.open(Path(path))
    changes = [
        w for w in words if not w.startswith(("-", "resume=", "hydra.", "hydra/")) and (w[0] in "+~" or "=" in w)
    ]
    if folder.record.get("status") == "finished" and not changes:
        raise UserError(f"resume={path}: this run is finished. To train on, give trainer.max_epochs=… more epochs")
    recorded = literal_config(folder.config(), folder.path / "config.yaml", changes=changes)
    if not (recorded.get("callbacks") or {}).get("checkpoints"):
        raise UserError(f"resume={path}: this run kept no checkpoint to go on from (callbacks.checkpoints is off)")
    changed = update(recorded, changes)
    for word in changes:
        key = word.partition("=")[0]
        if not key.startswith(_MAY_CHANGE):
            allowed = ", ".join(name.rstrip(".") for name in _MAY_CHANGE)
            raise UserError(f"{word}: resuming goes on with the same experiment, in which only {allowed} may change")
    config = check(changed)
    name_external_data(config, changes)
    epochs = [row.get("epoch") for row in folder.metrics() if "train/loss" in row]
    done = 1 + max((epoch for epoch in epochs if isinstance(epoch, int)), default=-1)
    if config.trainer.max_epochs < done:
        raise UserError(f"trainer.max_epochs={config.trainer.max_epochs}: this run has trained {done} epochs already")
    return config, folder
