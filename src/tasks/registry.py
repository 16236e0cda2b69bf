"""What is known about each task before torch is loaded: its metrics with their directions, and what it allows."""

from dataclasses import dataclass, field

from src.core.errors import UserError

LOSS = {"loss": "min"}


@dataclass(frozen=True)
class TaskFacts:
    """A task as the command line sees it.

    Args:
        summary: one line.
        metrics: metric name to ``min`` or ``max``, measured on validation and test.
        label_smoothing: whether the targets are classes, so that they can be smoothed.
        mixing: what is blended where two examples are mixed into one (mixup, CutMix): the ``losses`` of both labels,
            which is exact where the loss is linear in the label (cross-entropy), or the ``targets`` themselves, as
            squared error asks for; None where nothing can be mixed.
        test_metrics: metrics measured on test only, because they cost a decoding.
        generates: whether an answer is a generated sequence.
        temperature: of its sampling, unless told; 0 takes the likeliest token.
    """

    summary: str
    metrics: dict[str, str]
    label_smoothing: bool = False
    mixing: str | None = None
    test_metrics: dict[str, str] = field(default_factory=dict)
    generates: bool = False
    temperature: float = 0.0
    monitor: str = "val/loss"


TASKS: dict[str, TaskFacts] = {
    "classification": TaskFacts(
        "one of several classes", LOSS | {"accuracy": "max", "f1": "max"}, label_smoothing=True, mixing="losses"
    ),
    "binary_classification": TaskFacts(
        "yes or no", LOSS | {"accuracy": "max", "f1": "max", "auroc": "max"}, label_smoothing=True, mixing="losses"
    ),
    "regression": TaskFacts(
        "one or several numbers", LOSS | {"mse": "min", "mae": "min", "rmse": "min", "r2": "max"}, mixing="targets"
    ),
    "forecasting": TaskFacts(
        "the next values of a series", LOSS | {"mse": "min", "mae": "min", "rmse": "min"}, mixing="targets"
    ),
    "tagging": TaskFacts("a class for every step", LOSS | {"accuracy": "max", "f1": "max"}, label_smoothing=True),
    "language_modelling": TaskFacts(
        "the next token of a text",
        LOSS | {"perplexity": "min", "accuracy": "max"},
        label_smoothing=True,
        generates=True,
        temperature=0.8,
    ),
    "translation": TaskFacts(
        "a sequence from a sequence",
        LOSS | {"perplexity": "min", "token_accuracy": "max"},
        label_smoothing=True,
        test_metrics={"exact_match": "max", "bleu": "max"},
        generates=True,
    ),
}


def direction(task: str, metric: str) -> str:
    """Return ``min`` or ``max`` for a metric's name such as ``val/accuracy``; a metric unknown to the task is minimised
    if its name speaks of a loss or an error, else maximised.
    """
    name = metric.rsplit("/", 1)[-1]
    facts = TASKS[task]
    known = facts.metrics | facts.test_metrics
    if name in known:
        return known[name]
    return "min" if "loss" in name or "error" in name else "max"


def direction_of(metric: str) -> str:
    """Return ``min`` or ``max`` for a metric whose task is not known, as `direction` does for one that is."""
    name = metric.rsplit("/", 1)[-1]
    known = (task for task, facts in TASKS.items() if name in facts.metrics | facts.test_metrics)
    return direction(next(known, "classification"), metric)


def check_task(name: str) -> None:
    """Raise a UserError unless there is a task of this name."""
    if name not in TASKS:
        raise UserError("the facts about the data in this checkpoint are damaged: 'task' is wrong")
