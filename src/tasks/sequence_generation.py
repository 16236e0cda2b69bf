"""Tasks that predict sequences of tokens: language modelling and translation."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from src.core.data_spec import DataSpec
from src.tasks.base import Task


class LanguageModelling(Task):
    """Cross-entropy of the next token, logits [B, T, V] against tokens [B, T], averaged over time (textbook R4)."""

    name = "language_modelling"
    accuracy_name = "accuracy"

    def losses(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        ignore_index = -100 if self.spec.padding_id is None else self.spec.padding_id
        return F.cross_entropy(
            outputs.transpose(1, 2), targets, reduction="none", ignore_index=ignore_index, label_smoothing=smoothing
        )

    def weights(self, targets: Tensor) -> Tensor | None:
        return None if self.spec.padding_id is None else (targets != self.spec.padding_id).float()

    def metrics(self) -> MetricCollection:
        accuracy = MulticlassAccuracy(
            self.spec.output_size, average="micro", ignore_index=self.spec.padding_id, validate_args=False
        )
        return MetricCollection({self.accuracy_name: accuracy})

    def update(self, metrics: MetricCollection, outputs: Tensor, targets: Tensor) -> None:
        metrics.update(outputs.argmax(-1).flatten(), targets.flatten())

    def derived(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"perplexity": torch.exp(values["loss"])}

    def predictions(self, outputs: Tensor) -> list[dict[str, Any]]:
        """Return the generated tokens; the datamodule decodes them to text.

        Args:
            outputs: generated tokens [B, T].
        """
        return [{"tokens": row} for row in outputs.tolist()]


class Translation(LanguageModelling):
    """Cross-entropy of each target token given the source and the earlier target tokens; padding is ignored.

    Args:
        spec: description of the data.
        decode: function that maps target tokens [B, T] to texts; without it, BLEU is not computed.
    """

    name = "translation"
    accuracy_name = "token_accuracy"

    def __init__(self, spec: DataSpec, decode: Callable[[Tensor], list[str]] | None = None) -> None:
        super().__init__(spec)
        self._decode = decode

    def decoded_metrics(self) -> MetricCollection | None:
        metrics: dict[str, Metric | MetricCollection] = {"exact_match": MeanMetric()}
        if self._decode is not None:
            from src.tasks.bleu import CorpusBLEU

            metrics["bleu"] = CorpusBLEU()
        return MetricCollection(metrics, compute_groups=False)

    def update_decoded(self, metrics: MetricCollection, generated: Tensor, targets: Tensor) -> None:
        width = max(generated.size(1), targets.size(1))
        equal = self._until_end(generated, width) == self._until_end(targets, width)
        metrics["exact_match"].update(equal.all(1).float())
        if self._decode is not None:  # a generated unknown word never matches an unknown word of a reference
            hypotheses = [text.replace("\ufffd", "") for text in self._decode(generated)]
            metrics["bleu"].update(hypotheses, self._decode(targets))

    def _until_end(self, tokens: Tensor, width: int) -> Tensor:
        """Replace all tokens after the first end token by padding, and pad to [B, width]."""
        padding, end = self.spec.padding_id, self.spec.end_id
        assert padding is not None and end is not None
        ended = (tokens == end).cumsum(1) - (tokens == end).long() > 0
        return F.pad(tokens.masked_fill(ended, padding), (0, width - tokens.size(1)), value=padding)
