"""Hooks that a user's model or datamodule overrides, and that fused training would not call."""

import lightning as L
from lightning.pytorch.core.hooks import CheckpointHooks, ModelHooks

from src.compat.fast_loop import MODEL_HOOKS, TRANSFER_HOOKS
from src.models.base import Model
from src.models.image_model import ImageModel
from src.models.recurrent import Recurrent

CALLED_HOOKS = {"on_save_checkpoint", "on_train_epoch_end", "on_validation_epoch_end"}
"""Hooks of a model that a group calls as a separate run does."""
HOOKS = (
    *MODEL_HOOKS,
    *TRANSFER_HOOKS,
    *("losses", "forward_batch", "validation_step", "test_step", "compute_metrics"),
    *("configure_optimizers", "configure_callbacks", "lr_scheduler_step", "mid_epoch_state", "load_mid_epoch_state"),
    *(
        name
        for hooks in (ModelHooks, CheckpointHooks)
        for name in vars(hooks)
        if not name.startswith(("_", "on_predict"))
    ),
)
HARMLESS = {
    ImageModel.on_fit_start,  # only sets the memory layout
    *(
        value for name, value in vars(Recurrent).items() if name in HOOKS
    ),  # only for stateful training, which is never fused
}
"""Overrides of the models of this project that do not change the results of a group."""


def overridden_hook(model: type[Model], datamodule: type[L.LightningDataModule] = L.LightningDataModule) -> str | None:
    """Return the first overridden hook that fused training would not call, such as ``Custom.training_step``; None if none.

    Args:
        model, datamodule: their classes.
    """
    for hook in HOOKS:
        method = getattr(model, hook)
        if hook not in CALLED_HOOKS and method is not getattr(Model, hook) and method not in HARMLESS:
            return f"{model.__name__}.{hook}"
    for hook in TRANSFER_HOOKS:
        if getattr(datamodule, hook) is not getattr(L.LightningDataModule, hook):
            return f"{datamodule.__name__}.{hook}"
    return None
