"""Attention maps: a figure for each kind of attention of a model, with a panel for each layer and head."""

import lightning as L
from lightning.pytorch.callbacks import Callback

from src.core.errors import UserError
from src.datamodules.base import DataModule
from src.diagnostics.attention_maps import draw_attention
from src.layers.attention import record_attention_weights
from src.models.base import Model
from src.run_store.run_folder import RunFolder


class AttentionMaps(Callback):
    """Plot the attention of a few validation examples at the end of a run, with the weights that were tested.

    Args:
        folder: the run folder.
        examples: number of examples, from the beginning of the validation split.

    Raises:
        UserError: before training, if the model has no attention or is sharded over devices.
    """

    def __init__(self, folder: RunFolder, examples: int = 2) -> None:
        if examples < 1:
            raise UserError(f"callbacks.attention_maps.examples={examples}: must be 1 or more")
        self.folder = folder
        self.examples = examples

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        with record_attention_weights(pl_module) as layers:
            if not layers:
                raise UserError(
                    f"callbacks=attention_maps: {type(pl_module).__name__} has no attention; model=transformer has"
                )
        if type(trainer.strategy).__name__ == "FSDPStrategy":
            raise UserError(
                "callbacks=attention_maps needs the whole model on one device: use trainer.strategy=ddp or auto"
            )

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        datamodule: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(pl_module, Model)
        batch = datamodule.examples("val", self.examples)
        batch = type(batch)(*(tensor.to(pl_module.device) for tensor in batch))
        with trainer.precision_plugin.forward_context():
            batch = trainer.precision_plugin.convert_input(batch)
            draw_attention(pl_module, datamodule, batch, self.folder.path, "attention-val", trainer.loggers)
