"""Which epoch of a run was best, from what the run logged."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from src.spec import SPLITS


def best_epoch(rows: Sequence[Mapping[str, Any]], monitor: str, mode: str) -> tuple[int | None, dict[str, float]]:
    """Return the epoch with the best monitor and everything that was logged for it; of equals, the first.

    Args:
        rows: the lines of metrics.jsonl.
        monitor, mode: what is best.
    """
    epochs: dict[int, dict[str, float]] = {}
    for row in rows:
        numbers = {
            name: value
            for name, value in row.items()
            if (name.partition("/")[0] in SPLITS or name == "lr") and value is not None
        }
        if row.get("epoch") is not None and not any(name.startswith("test/") for name in numbers):
            epochs.setdefault(row["epoch"], {}).update(numbers)
    scored = {epoch: numbers for epoch, numbers in epochs.items() if isfinite(numbers.get(monitor, float("nan")))}
    if not scored:
        return None, {}
    best = (min if mode == "min" else max)(scored, key=lambda epoch: scored[epoch][monitor])
    return best, {name: value for name, value in scored[best].items() if name != "train/loss_step"}
