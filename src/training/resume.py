"""Config of a resumed run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.config.compose import update
from src.config.trust import check_recorded_config, log_external_data
from src.core.errors import UserError

if TYPE_CHECKING:
    from src.config.schema.run import Config
    from src.run_store.run_folder import RunFolder

_CHANGEABLE = (
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
"""Prefixes of the keys that a resumed run may change, such as the paths of its data. The state of the optimizer is from the
checkpoint."""


def prepare_resume(path: str, argv: Sequence[str]) -> tuple["Config", "RunFolder"]:
    """Return the recorded config of a run, with the given overrides, and its run folder.

    Args:
        path: the run folder.
        argv: the command line; ``resume=…`` and Hydra's own arguments are ignored.

    Raises:
        UserError: if there is no such run, if it is finished and no override extends it, or if an override is invalid.
    """
    from src.config.validate import check
    from src.run_store.run_folder import RunFolder

    if not path.strip():
        raise UserError("resume= must name a run folder: resume=outputs/runs/…")
    folder = RunFolder.open(Path(path))
    overrides = [
        argument
        for argument in argv
        if not argument.startswith(("-", "resume=", "hydra.", "hydra/")) and (argument[0] in "+~" or "=" in argument)
    ]
    if folder.record.get("status") == "finished" and not overrides:
        raise UserError(f"resume={path}: this run is finished. To train further, increase trainer.max_epochs=…")
    recorded = check_recorded_config(folder.config(), folder.path / "config.yaml", changes=overrides)
    if not (recorded.get("callbacks") or {}).get("checkpoints"):
        raise UserError(f"resume={path}: this run kept no checkpoint to resume from (callbacks.checkpoints is off)")
    changed = update(recorded, overrides)
    for override in overrides:
        key = override.partition("=")[0]
        if not key.startswith(_CHANGEABLE):
            allowed = ", ".join(name.rstrip(".") for name in _CHANGEABLE)
            raise UserError(f"{override}: a resumed run continues the same experiment; only {allowed} may change")
    config = check(changed)
    log_external_data(config, overrides)
    epochs = [row.get("epoch") for row in folder.metrics() if "train/loss" in row]
    epochs_done = 1 + max((epoch for epoch in epochs if isinstance(epoch, int)), default=-1)
    if config.trainer.max_epochs < epochs_done:
        raise UserError(
            f"trainer.max_epochs={config.trainer.max_epochs}: this run has already trained {epochs_done} epochs"
        )
    return config, folder
