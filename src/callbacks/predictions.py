"""What a run answers on its test split: the confusion of its classes, and a few examples beside the truth."""

import json
import logging
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
from src.run_store.atomic_write import replaced
from src.run_store.config_file import plain
from src.run_store.predictions import ANSWERS, EXAMPLES
from src.run_store.run_folder import RunFolder
from src.tasks.registry import TASKS
from src.tasks.tagging import UNASKED

log = logging.getLogger(__name__)
MOST_CLASSES = 100
"""A confusion of more classes than these is not kept: nobody reads it."""
MOST_NUMBERS = 500
"""Predicted numbers that are kept, of examples at equal distances through the split."""
_CERTAIN = 1e4
"""A logit that leaves no doubt."""


class Answers(Callback):
    """Writes answers.json when the best weights are tested, and shows the same in Weights & Biases as tables; where the inputs
    are images, those of the examples stand side by side in examples.png.

    The file holds ``classes`` and ``confusion`` (rows: truth, columns: answer; counts over the whole split; null where the
    task has no classes), ``true`` and ``predicted`` where it has numbers (a row an example, through the whole split), and
    ``examples``, each with ``truth``, ``prediction``, ``probability`` and, where it can be told in words, ``input``, in the
    data's own units and words. The outputs are those that were measured: nothing is computed twice.

    Args:
        folder: the run's.
        examples: how many are kept, from the beginning of the split.

    Raises:
        UserError: if the number is negative.
    """

    def __init__(self, folder: RunFolder, examples: int = 16) -> None:
        if examples < 0:
            raise UserError(f"callbacks.answers.examples={examples}: must be 0 or more")
        self.folder = folder
        self.count = examples
        self._hook: Any = None
        self._outputs: Tensor | None = None
        self._confusion: Tensor | None = None
        self._examples: list[dict[str, Any]] = []
        self._pictures: list[Tensor] = []
        self._numbers: list[tuple[Tensor, Tensor]] = []
        self._seen = 0

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Model)
        self._examples, self._pictures, self._numbers, self._seen = [], [], [], 0
        classes = _classes(pl_module)
        self._confusion = None
        if 0 < len(classes) <= MOST_CLASSES:
            self._confusion = torch.zeros(len(classes), len(classes), dtype=torch.long, device=pl_module.device)

        def note(module: Any, inputs: Any, outputs: Any) -> None:
            if self._outputs is None and isinstance(outputs, Tensor):
                self._outputs = outputs.detach()

        self._hook = pl_module.register_forward_hook(note)

    def on_test_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._outputs = None

    def take(self, outputs: Tensor) -> None:
        """Take the outputs for the batch that was begun, where the model is not called for it."""
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
        found = self._outputs
        if found is None:  # a recurrent network that carries its state over does without `forward`
            return
        assert isinstance(pl_module, Model)
        if self._confusion is not None:
            self._confusion += confusion(pl_module.spec.task, found, batch.targets, len(self._confusion))
        if pl_module.spec.task in ("regression", "forecasting"):
            self._note_numbers(trainer, pl_module, batch, found)
        if (missing := self.count - len(self._examples)) > 0 and trainer.is_global_zero:
            self._keep(trainer, pl_module, type(batch)(*(tensor[:missing] for tensor in batch)), found[:missing])

    def _keep(self, trainer: L.Trainer, model: Model, batch: Batch, outputs: Tensor) -> None:
        datamodule: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        spec, task = model.spec, model.task
        if spec.task == "translation" and trainer.world_size == 1:
            outputs = model.generate(batch.inputs[0])
        elif TASKS[spec.task].generates:
            outputs = outputs.argmax(-1)
        answers = datamodule.answers(task.answers(outputs))
        truths = datamodule.answers(task.answers(_as_outputs(spec.task, batch.targets, spec.output_size)))
        for number, (answer, truth) in enumerate(zip(answers, truths, strict=True)):
            example = {"truth": truth["prediction"], "prediction": answer["prediction"]}
            if probabilities := answer.get("probabilities"):
                example["probability"] = probabilities[answer["prediction"]]
            if spec.inputs == "tokens":
                tokens = batch.inputs[0][number]
                seen = tokens if spec.padding_id is None else tokens[tokens != spec.padding_id]
                example["input"] = "".join(datamodule.token_names(seen.tolist()))
            self._examples.append(example)
            if spec.inputs == "image":
                self._pictures.append(batch.inputs[0][number].float().cpu())

    def _note_numbers(self, trainer: L.Trainer, model: Model, batch: Batch, outputs: Tensor) -> None:
        datamodule: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        stride = -(-len(datamodule.split("test")[0]) // max(1, MOST_NUMBERS // model.spec.output_size))
        chosen = slice(-self._seen % stride, None, stride)  # nothing of a batch, where the next one lies behind it
        self._seen += len(outputs)
        self._numbers.append((batch.targets[chosen], outputs[chosen]))

    def _true_and_predicted(self, trainer: L.Trainer, model: Model) -> dict[str, list[list[float]]]:
        """Return numbers in the data's own units, a row an example."""
        if not self._numbers:
            return {}
        datamodule: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        both = [torch.cat(parts).float().cpu() for parts in zip(*self._numbers, strict=True)]
        try:
            answers = [datamodule.answers(model.task.answers(numbers)) for numbers in both]
            rows = [[_flat(answer["prediction"]) for answer in each] for each in answers]
        except (TypeError, ValueError) as error:  # a datamodule of someone's own that answers in words
            log.warning("answers.json has no numbers, as the answers are none: %s", error)
            return {}
        return dict(zip(("true", "predicted"), rows, strict=True))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._confusion is not None:
            self._confusion = trainer.strategy.reduce(self._confusion, reduce_op="sum")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._hook.remove()
        self._outputs = None
        if not trainer.is_global_zero or not (self._examples or self._numbers or self._confusion is not None):
            return
        assert isinstance(pl_module, Model)
        classes = _classes(pl_module)
        counts = None if self._confusion is None else self._confusion.tolist()
        numbers = self._true_and_predicted(trainer, pl_module)
        found = {
            "format_version": FORMAT_VERSION,
            "split": "test",
            "classes": classes,
            "confusion": counts,
            **numbers,
            "examples": plain(self._examples),
        }
        with replaced(self.folder.path / ANSWERS) as file:
            file.write(
                json.dumps(found, ensure_ascii=False, indent=1, allow_nan=False).encode(errors="backslashreplace")
            )
        if self._pictures:
            _save_pictures(self.folder.path, self._pictures)
        for logger in trainer.loggers:
            if isinstance(logger, WeightsAndBiases):
                logger.log_answers()


def _save_pictures(folder: Path, images: Sequence[Tensor]) -> None:
    from PIL import Image

    strip = np.concatenate([_picture(image) for image in images], axis=1)
    with replaced(folder / EXAMPLES) as file:
        Image.fromarray(strip[..., 0] if strip.shape[2] == 1 else strip).save(file, format="PNG")


def _flat(answer: Any) -> list[float]:
    """Return the numbers of an answer in their order, whatever holds them, with six digits."""
    parts = list(answer.values()) if isinstance(answer, dict) else answer
    if isinstance(parts, Sequence) and not isinstance(parts, str):
        return [number for part in parts for number in _flat(part)]
    return [float(f"{float(parts):.6g}")]


def confusion(task: str, outputs: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Return how often each class was answered for each true one.

    Args:
        task: ``classification``, ``binary_classification`` or ``tagging``.
        outputs: logits [B, C], [B] or [B, T, C].
        targets: [B] or [B, T].
        classes: their number C; 2 for a binary one.

    Returns:
        [C, C] int64; rows: truth, columns: answer.
    """
    answers = (outputs >= 0).long() if task == "binary_classification" else outputs.argmax(-1)
    truth = targets.long()
    asked = truth != UNASKED
    return torch.bincount(truth[asked] * classes + answers[asked], minlength=classes**2).reshape(classes, classes)


def _classes(model: Model) -> list[str]:
    """Return the names of the classes, none if the task has none."""
    spec = model.spec
    if spec.task not in ("classification", "binary_classification", "tagging"):
        return []
    number = 2 if spec.task == "binary_classification" else spec.output_size
    return list(spec.class_names) or [str(label) for label in range(number)]


def _as_outputs(task: str, targets: Tensor, classes: int) -> Tensor:
    """Return the outputs of a model that knows the truth, so that it is shown in the same words as an answer."""
    if task in ("classification", "tagging"):
        return _CERTAIN * F.one_hot(targets.clamp(min=0), classes).float()
    return _CERTAIN * (targets - 0.5) if task == "binary_classification" else targets


def _picture(image: Tensor) -> Any:
    """Return an image [C, H, W] as bytes [H, W, C], from its darkest to its brightest."""
    low, high = image.min(), image.max()
    pixels = (255 * (image - low) / (high - low).clamp(min=1e-6)).byte().permute(1, 2, 0)
    return (pixels if pixels.shape[2] in (1, 3) else pixels[..., :1]).numpy()
