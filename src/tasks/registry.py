"""Properties of each task that are needed before torch is loaded: metrics with their directions, and supported options."""

from dataclasses import dataclass, field

from src.core.errors import UserError

LOSS = {"loss": "min"}


@dataclass(frozen=True)
class TaskInfo:
    """Properties of a task for the command line.

    Args:
        summary: description in one line.
        metrics: maps a metric's name to ``min`` or ``max``; computed on validation and test.
        label_smoothing: whether the targets are classes, so that they can be smoothed.
        mixing: what mixup and CutMix blend: the ``losses`` of both labels, which is exact if the loss is linear in the
            label (cross-entropy), or the ``targets``, as for squared error; None if examples cannot be mixed.
        test_metrics: metrics computed on test only, because they require decoding.
        generates: whether predictions are generated sequences.
        temperature: default sampling temperature; 0 takes the most likely token.
        monitor: default metric to monitor.
    """

    summary: str
    metrics: dict[str, str]
    label_smoothing: bool = False
    mixing: str | None = None
    test_metrics: dict[str, str] = field(default_factory=dict)
    generates: bool = False
    temperature: float = 0.0
    monitor: str = "val/loss"


TASKS: dict[str, TaskInfo] = {
    "classification": TaskInfo(
        "one of several classes", LOSS | {"accuracy": "max", "f1": "max"}, label_smoothing=True, mixing="losses"
    ),
    "binary_classification": TaskInfo(
        "yes or no", LOSS | {"accuracy": "max", "f1": "max", "auroc": "max"}, label_smoothing=True, mixing="losses"
    ),
    "regression": TaskInfo(
        "one or several numbers", LOSS | {"mse": "min", "mae": "min", "rmse": "min", "r2": "max"}, mixing="targets"
    ),
    "forecasting": TaskInfo(
        "the next values of a series", LOSS | {"mse": "min", "mae": "min", "rmse": "min"}, mixing="targets"
    ),
    "tagging": TaskInfo("a class for every step", LOSS | {"accuracy": "max", "f1": "max"}, label_smoothing=True),
    "language_modelling": TaskInfo(
        "the next token of a text",
        LOSS | {"perplexity": "min", "accuracy": "max"},
        label_smoothing=True,
        generates=True,
        temperature=0.8,
    ),
    "translation": TaskInfo(
        "a sequence from a sequence",
        LOSS | {"perplexity": "min", "token_accuracy": "max"},
        label_smoothing=True,
        test_metrics={"exact_match": "max", "bleu": "max"},
        generates=True,
    ),
}


def direction(task: str, metric: str) -> str:
    """Return ``min`` or ``max`` for a metric's name such as ``val/accuracy``. A metric that the task does not define is
    minimised if its name contains "loss" or "error", otherwise maximised.
    """
    name = metric.rsplit("/", 1)[-1]
    info = TASKS[task]
    directions = info.metrics | info.test_metrics
    if name in directions:
        return directions[name]
    return "min" if "loss" in name or "error" in name else "max"


def direction_of(metric: str) -> str:
    """Return ``min`` or ``max`` for a metric of an unknown task: the direction in the first task that defines it."""
    name = metric.rsplit("/", 1)[-1]
    tasks = (task for task, info in TASKS.items() if name in info.metrics | info.test_metrics)
    return direction(next(tasks, "classification"), metric)


def check_task(name: str) -> None:
    """Raise a UserError unless there is a task of this name."""
    if name not in TASKS:
        raise UserError("the facts about the data in this checkpoint are damaged: 'task' is wrong")
