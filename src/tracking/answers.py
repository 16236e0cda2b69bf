"""What the tested weights answered: a confusion matrix, or predictions beside the truth, in answers.json of the run folder.

Small and of plain numbers, so that runs are compared by it without loading a checkpoint.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from src.batches import Batch
from src.datamodules.base import DataModule
from src.models.base import Model
from src.tasks.tagging import UNASKED
from src.tracking.run_folder import RunFolder, plain, replaced

log = logging.getLogger(__name__)

MOST_CLASSES = 100
"""With more classes no confusion matrix is kept: nobody reads it."""
MOST_NUMBERS = 500
"""Predicted numbers that are kept, from examples at equal distances through the test split."""


class TestAnswers(Callback):
    """Writes answers.json once the best weights are tested; nothing for tasks that generate text.

    Args:
        folder: the run's.
    """

    __test__ = False  # pytest takes it for a test otherwise

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._outputs: Tensor | None = None
        self._confusion: Tensor | None = None
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._seen = 0
        self._hook: Any = None

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._confusion, self._kept, self._seen = None, [], 0
        self._hook = pl_module.register_forward_hook(self._take)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        assert isinstance(pl_module, Model)
        given, self._outputs = self._outputs, None
        if given is None:
            return
        task, classes = pl_module.spec.task, pl_module.spec.output_size
        if task == "binary_classification":
            self._count((given > 0).long(), batch.targets.long(), 2)
        elif task == "classification":
            self._count(given.argmax(-1), batch.targets, classes)
        elif task == "tagging":
            asked = batch.targets != UNASKED
            self._count(given.argmax(-1)[asked], batch.targets[asked], classes)
        elif task in ("regression", "forecasting"):
            self._keep(given, batch.targets, self._stride(trainer, pl_module))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Model)
        self._hook.remove()
        spec = pl_module.spec
        found: dict[str, Any] = {}
        if self._confusion is not None:
            counted = trainer.strategy.reduce(self._confusion, reduce_op="sum")
            names = spec.class_names or tuple(str(i) for i in range(len(counted)))
            found = {"classes": list(names), "confusion": counted}
        elif self._kept:
            data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
            truth, predicted = (torch.cat(parts).float().cpu() for parts in zip(*self._kept, strict=True))
            try:
                found = {
                    name: [_flat(answer["prediction"]) for answer in data.answers(pl_module.task.answers(numbers))]
                    for name, numbers in (("truth", truth), ("predicted", predicted))
                }
            except (TypeError, ValueError) as error:  # a datamodule of someone's own answers in words
                log.warning("no answers.json, as the answers are no numbers: %s", error)
        if found and trainer.is_global_zero:
            with replaced(self.folder.path / "answers.json") as partial:
                partial.write_text(json.dumps({"task": spec.task, "split": "test", **plain(found)}), encoding="utf-8")

    def _take(self, module: torch.nn.Module, arguments: Any, outputs: Tensor) -> None:
        self._outputs = outputs

    def _count(self, predicted: Tensor, truth: Tensor, classes: int) -> None:
        """Add a batch to the confusion matrix: a row a true class, a column a predicted one."""
        if classes > MOST_CLASSES:
            return
        pairs = truth.flatten() * classes + predicted.flatten()
        counted = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        self._confusion = counted if self._confusion is None else self._confusion + counted

    def _stride(self, trainer: L.Trainer, model: Model) -> int:
        """Return how many examples lie from one that is kept to the next."""
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        examples = len(data.split("test")[0])
        return -(-examples * model.spec.output_size // MOST_NUMBERS)

    def _keep(self, predicted: Tensor, truth: Tensor, stride: int) -> None:
        chosen = torch.arange(-self._seen % stride, len(truth), stride, device=truth.device)
        self._seen += len(truth)
        self._kept.append((truth[chosen], predicted[chosen]))


def _flat(answer: Any) -> list[float]:
    """Return the numbers of an answer in their order, whatever holds them."""
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return [number for part in answer for number in _flat(part)]
    return [float(f"{float(answer):.6g}")]
