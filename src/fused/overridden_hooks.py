"""Which models have something of their own to say in a step, that nobody would ask where they are trained as one."""

import lightning as L
from lightning.pytorch.core.hooks import CheckpointHooks, ModelHooks

from src.compat.fast_loop import OF_MODEL, TRANSFER
from src.models.base import Model
from src.models.image_model import ImageModel
from src.models.recurrent import Recurrent

ASKED = {"on_save_checkpoint", "on_train_epoch_end", "on_validation_epoch_end"}
"""Hooks of a model that a group calls as a run of its own does."""
HOOKS = (
    *OF_MODEL,
    *TRANSFER,
    *("losses", "outputs_of", "validation_step", "test_step", "measured"),
    *("configure_optimizers", "configure_callbacks", "lr_scheduler_step", "unfinished_epoch", "go_on_with"),
    *(
        name
        for hooks in (ModelHooks, CheckpointHooks)
        for name in vars(hooks)
        if not name.startswith(("_", "on_predict"))
    ),
)
HARMLESS = {
    ImageModel.on_fit_start,  # the layout in memory
    *(value for name, value in vars(Recurrent).items() if name in HOOKS),  # for a state that is carried, as in no group
}
"""What of our own models changes no number in a group."""


def own_step(model: type[Model], datamodule: type[L.LightningDataModule] = L.LightningDataModule) -> str | None:
    """Name the method by which a model or its data change how a run goes, but not one of a group; None if there is none.

    Args:
        model, datamodule: their classes.
    """
    for hook in HOOKS:
        own = getattr(model, hook)
        if hook not in ASKED and own is not getattr(Model, hook) and own not in HARMLESS:
            return f"{model.__name__}.{hook}"
    for hook in TRANSFER:
        if getattr(datamodule, hook) is not getattr(L.LightningDataModule, hook):
            return f"{datamodule.__name__}.{hook}"
    return None
