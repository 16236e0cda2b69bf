"""Naive baseline: the test metrics of the best constant prediction, which a trained model has to beat."""

import torch
from torch import Tensor

from src.core.batches import Batch, LanguageBatch, TranslationBatch
from src.core.data_spec import DataSpec
from src.tasks.factory import build_task
from src.tasks.tagging import IGNORE_INDEX


def score_naive_baseline(spec: DataSpec, train: Batch, test: Batch) -> dict[str, float]:
    """Return the test metrics of the best prediction that does not depend on the input.

    Classes: the most frequent one, with the frequencies as probabilities, at every step for tagging. Numbers: the mean of
    the training targets. Text: as for classes, for every token. Translation: at each position, the most frequent token of
    the training targets.
    Counts start at one, so that a class that is not in the training split is unlikely and not impossible.

    Args:
        spec: the data, for its task.
        train, test: whole splits.
    """
    train_targets, targets = train.targets, test.targets
    if isinstance(train, TranslationBatch):
        correct = targets == train_targets.mode(0).values
        valid = targets != spec.padding_id
        return {
            "test/token_accuracy": correct[valid].float().mean().item(),
            "test/exact_match": (correct | ~valid).all(1).float().mean().item(),
        }
    if isinstance(train, LanguageBatch):
        log_frequencies = _log_frequencies(train_targets, spec.output_size)
        loss = -log_frequencies[targets].mean()
        return {
            "test/loss": loss.item(),
            "test/perplexity": loss.exp().item(),
            "test/accuracy": (targets == log_frequencies.argmax()).float().mean().item(),
        }
    if spec.task in ("classification", "tagging"):
        constant = _log_frequencies(train_targets[train_targets != IGNORE_INDEX], spec.output_size)
    elif spec.task == "binary_classification":
        no, yes = _log_frequencies(train_targets.long(), 2)
        constant = yes - no
    else:
        constant = train_targets.double().mean(0)
    steps = targets.shape if spec.task == "tagging" else targets.shape[:1]
    return score_outputs(spec, constant.float().expand(*steps, *constant.shape), targets)


def score_outputs(spec: DataSpec, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Return the task's loss and metrics of outputs [N, *output_shape] on the test targets."""
    task = build_task(spec)
    metrics = task.metrics()
    for metric in metrics.values():
        metric.distributed_available_fn = lambda: False  # computed by one process on the whole split
    task.update(metrics, outputs, targets)
    losses, weights = task.losses(outputs, targets), task.weights(targets)
    values = {"loss": losses.sum() / (losses.numel() if weights is None else weights.sum()), **metrics.compute()}
    return {f"test/{name}": float(value) for name, value in values.items()}


def _log_frequencies(classes: Tensor, size: int) -> Tensor:
    counts = torch.bincount(classes.flatten(), minlength=size).double() + 1
    return (counts / counts.sum()).log()
