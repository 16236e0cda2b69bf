"""What a trivial answer scores: the measure that a trained model has to beat."""

import torch
from torch import Tensor

from src.core.batches import Batch, LanguageBatch, TranslationBatch
from src.core.data_spec import DataSpec
from src.tasks.factory import build_task
from src.tasks.tagging import UNASKED


def trivial_scores(spec: DataSpec, train: Batch, test: Batch) -> dict[str, float]:
    """Return the test metrics of the best answer that never looks at the input.

    Classes: the most frequent one, with the frequencies as probabilities, in every step for tagging. Numbers: the mean of
    training. Text: the same as classes, for every character. Translation: in each position the most frequent token of the
    training targets.
    Frequencies are counted from one, so that what training lacks is unlikely and not impossible.

    Args:
        spec: names the task.
        train, test: whole splits.
    """
    seen, asked = train.targets, test.targets
    if isinstance(train, TranslationBatch):
        same = asked == seen.mode(0).values
        counted = asked != spec.padding_id
        return {
            "test/token_accuracy": same[counted].float().mean().item(),
            "test/exact_match": (same | ~counted).all(1).float().mean().item(),
        }
    if isinstance(train, LanguageBatch):
        log_shares = _log_shares(seen, spec.output_size)
        loss = -log_shares[asked].mean()
        return {
            "test/loss": loss.item(),
            "test/perplexity": loss.exp().item(),
            "test/accuracy": (asked == log_shares.argmax()).float().mean().item(),
        }
    if spec.task in ("classification", "tagging"):
        constant = _log_shares(seen[seen != UNASKED], spec.output_size)
    elif spec.task == "binary_classification":
        no, yes = _log_shares(seen.long(), 2)
        constant = yes - no
    else:
        constant = seen.double().mean(0)
    steps = asked.shape if spec.task == "tagging" else asked.shape[:1]
    return scores(spec, constant.float().expand(*steps, *constant.shape), asked)


def scores(spec: DataSpec, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Return the task's loss and metrics of given outputs [N, *output_shape] on the test targets."""
    task = build_task(spec)
    metrics = task.metrics()
    for metric in metrics.values():
        metric.distributed_available_fn = lambda: False  # asked by one process, of the whole split
    task.update(metrics, outputs, targets)
    losses, weights = task.losses(outputs, targets), task.weights(targets)
    values = {"loss": losses.sum() / (losses.numel() if weights is None else weights.sum()), **metrics.compute()}
    return {f"test/{name}": float(value) for name, value in values.items()}


def _log_shares(classes: Tensor, size: int) -> Tensor:
    counts = torch.bincount(classes.flatten(), minlength=size).double() + 1
    return (counts / counts.sum()).log()
