"""Predictions of a run on its test split: the confusion matrix, and a few examples beside their targets."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from src.core.batches import Batch
from src.core.errors import UserError
from src.core.records import FORMAT_VERSION
from src.datamodules.base import DataModule
from src.loggers.wandb.logger import WeightsAndBiases
from src.models.base import Model
from src.run_store.atomic_write import atomic_write
from src.run_store.config_file import to_plain
from src.run_store.predictions import EXAMPLES, PREDICTIONS
from src.run_store.run_folder import RunFolder
from src.tasks.registry import TASKS
from src.tasks.tagging import IGNORE_INDEX

log = logging.getLogger(__name__)
MAX_CLASSES = 100
"""With more classes, no confusion matrix is saved: it would be unreadable."""
MAX_NUMBERS = 500
"""Maximum number of saved numeric predictions, from examples at equal distances through the split."""
_LARGE_LOGIT = 1e4
"""A logit whose probability is 1 in floating point."""


class Predictions(Callback):
    """Write predictions.json when the best weights are tested, and log the same as tables in Weights & Biases. For image
    inputs, also write the images of the examples side by side to examples.png.

    The file contains ``classes`` and ``confusion`` (rows: target, columns: prediction; counts over the whole split; null
    for tasks without classes), ``true`` and ``predicted`` for numeric targets (one row per example, sampled through the
    whole split), and ``examples``, each with its target, ``prediction``, ``probability`` and, for token inputs,
    ``input``, in the units and tokens of the data. The outputs are those that the metrics were computed from: nothing is
    computed twice.

    Args:
        folder: the run folder.
        examples: number of examples to save, from the beginning of the split.

    Raises:
        UserError: if the number is negative.
    """

    def __init__(self, folder: RunFolder, examples: int = 16) -> None:
        if examples < 0:
            raise UserError(f"callbacks.predictions.examples={examples}: must be 0 or more")
        self.folder = folder
        self.num_examples = examples
        self._hook: Any = None
        self._outputs: Tensor | None = None
        self._confusion: Tensor | None = None
        self._examples: list[dict[str, Any]] = []
        self._images: list[Tensor] = []
        self._numbers: list[tuple[Tensor, Tensor]] = []
        self._num_seen = 0

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Model)
        self._examples, self._images, self._numbers, self._num_seen = [], [], [], 0
        classes = _class_names(pl_module)
        self._confusion = None
        if 0 < len(classes) <= MAX_CLASSES:
            self._confusion = torch.zeros(len(classes), len(classes), dtype=torch.long, device=pl_module.device)

        def record_outputs(module: Any, inputs: Any, outputs: Any) -> None:
            if self._outputs is None and isinstance(outputs, Tensor):
                self._outputs = outputs.detach()

        self._hook = pl_module.register_forward_hook(record_outputs)

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._outputs = None

    def set_outputs(self, outputs: Tensor) -> None:
        """Set the outputs for the current batch where `forward` is not called for it, as in fused training."""
        self._outputs = outputs

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        model_outputs = self._outputs
        if model_outputs is None:  # a stateful recurrent network does not call `forward`
            return
        assert isinstance(pl_module, Model)
        task = pl_module.spec.task
        if self._confusion is not None:
            self._confusion += confusion(task, model_outputs, batch.targets, len(self._confusion))
        if task in ("regression", "forecasting"):
            self._sample_numbers(trainer, pl_module, batch, model_outputs)
        missing = self.num_examples - len(self._examples)
        if missing > 0 and trainer.is_global_zero:
            first = type(batch)(*(tensor[:missing] for tensor in batch))
            self._add_examples(trainer, pl_module, first, model_outputs[:missing])

    def _add_examples(self, trainer: L.Trainer, model: Model, batch: Batch, outputs: Tensor) -> None:
        datamodule: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        spec, task = model.spec, model.task
        if spec.task == "translation" and trainer.world_size == 1:
            outputs = model.generate(batch.inputs[0])
        elif TASKS[spec.task].generates:
            outputs = outputs.argmax(-1)
        predictions = datamodule.decode_predictions(task.predictions(outputs))
        target_outputs = _outputs_for_targets(spec.task, batch.targets, spec.output_size)
        targets = datamodule.decode_predictions(task.predictions(target_outputs))
        for index, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
            example = {"target": target["prediction"], "prediction": prediction["prediction"]}
            if probabilities := prediction.get("probabilities"):
                example["probability"] = probabilities[prediction["prediction"]]
            if spec.inputs == "tokens":
                tokens = batch.inputs[0][index]
                if spec.padding_id is not None:
                    tokens = tokens[tokens != spec.padding_id]
                example["input"] = "".join(datamodule.token_names(tokens.tolist()))
            self._examples.append(example)
            if spec.inputs == "image":
                self._images.append(batch.inputs[0][index].float().cpu())

    def _sample_numbers(self, trainer: L.Trainer, model: Model, batch: Batch, outputs: Tensor) -> None:
        """Save the targets and outputs of every n-th example, counted over the whole split."""
        datamodule: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        max_examples = max(1, MAX_NUMBERS // model.spec.output_size)
        stride = math.ceil(len(datamodule.split("test")[0]) / max_examples)
        position = self._num_seen % stride
        offset = 0 if position == 0 else stride - position  # may be beyond the end of this batch
        self._num_seen += len(outputs)
        self._numbers.append((batch.targets[offset::stride], outputs[offset::stride]))

    def _true_and_predicted(self, trainer: L.Trainer, model: Model) -> dict[str, list[list[float]]]:
        """Return the sampled targets and predictions in the units of the data, one row per example."""
        if not self._numbers:
            return {}
        datamodule: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        columns = {}
        for name, parts in zip(("true", "predicted"), zip(*self._numbers, strict=True), strict=True):
            try:
                predictions = datamodule.decode_predictions(model.task.predictions(torch.cat(parts).float().cpu()))
                columns[name] = [_flatten_numbers(prediction["prediction"]) for prediction in predictions]
            except (TypeError, ValueError) as error:  # a datamodule of an extension may return text
                log.warning("predictions.json has no numbers, as the predictions are not numeric: %s", error)
                return {}
        return columns

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._confusion is not None:
            self._confusion = trainer.strategy.reduce(self._confusion, reduce_op="sum")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._hook.remove()
        self._outputs = None
        if not trainer.is_global_zero or not (self._examples or self._numbers or self._confusion is not None):
            return
        assert isinstance(pl_module, Model)
        contents = {
            "format_version": FORMAT_VERSION,
            "split": "test",
            "classes": _class_names(pl_module),
            "confusion": None if self._confusion is None else self._confusion.tolist(),
            **self._true_and_predicted(trainer, pl_module),
            "examples": to_plain(self._examples),
        }
        with atomic_write(self.folder.path / PREDICTIONS) as file:
            text = json.dumps(contents, ensure_ascii=False, indent=1, allow_nan=False)
            file.write(text.encode(errors="backslashreplace"))
        if self._images:
            _save_images(self.folder.path, self._images)
        for logger in trainer.loggers:
            if isinstance(logger, WeightsAndBiases):
                logger.log_predictions()


def _save_images(folder: Path, images: Sequence[Tensor]) -> None:
    from PIL import Image

    row = np.concatenate([_image_to_bytes(image) for image in images], axis=1)
    with atomic_write(folder / EXAMPLES) as file:
        Image.fromarray(row[..., 0] if row.shape[2] == 1 else row).save(file, format="PNG")


def _flatten_numbers(prediction: Any) -> list[float]:
    """Return the numbers of a prediction (a number, or nested lists or dictionaries of numbers) with six digits."""
    parts = list(prediction.values()) if isinstance(prediction, dict) else prediction
    if isinstance(parts, Sequence) and not isinstance(parts, str):
        return [number for part in parts for number in _flatten_numbers(part)]
    return [float(f"{float(parts):.6g}")]


def confusion(task: str, outputs: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Return how often each class was predicted for each target class.

    Args:
        task: ``classification``, ``binary_classification`` or ``tagging``.
        outputs: logits [B, C], [B] or [B, T, C].
        targets: [B] or [B, T]; ignored positions have the ignore index.
        classes: number of classes C; 2 for binary classification.

    Returns:
        [C, C] int64; rows: target, columns: prediction.
    """
    predictions = (outputs >= 0).long() if task == "binary_classification" else outputs.argmax(-1)
    targets = targets.long()
    counted = targets != IGNORE_INDEX
    pairs = targets[counted] * classes + predictions[counted]
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _class_names(model: Model) -> list[str]:
    """Return the names of the classes; an empty list for tasks without classes."""
    spec = model.spec
    if spec.task not in ("classification", "binary_classification", "tagging"):
        return []
    num_classes = 2 if spec.task == "binary_classification" else spec.output_size
    return list(spec.class_names) or [str(label) for label in range(num_classes)]


def _outputs_for_targets(task: str, targets: Tensor, classes: int) -> Tensor:
    """Return the outputs that a perfect model would have, so that targets are decoded in the same way as predictions."""
    if task in ("classification", "tagging"):
        return _LARGE_LOGIT * F.one_hot(targets.clamp(min=0), classes).float()
    return _LARGE_LOGIT * (targets - 0.5) if task == "binary_classification" else targets


def _image_to_bytes(image: Tensor) -> Any:
    """Return an image [C, H, W] as bytes [H, W, C], scaled from its minimum to its maximum."""
    low, high = image.min(), image.max()
    pixels = (255 * (image - low) / (high - low).clamp(min=1e-6)).byte().permute(1, 2, 0)
    return (pixels if pixels.shape[2] in (1, 3) else pixels[..., :1]).numpy()
