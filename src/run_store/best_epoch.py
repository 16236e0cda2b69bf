"""Which epoch of a run was best, from what the run logged."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from src.core.data_spec import SPLITS

if TYPE_CHECKING:
    from src.run_store.run_folder import RunFolder


def best_epoch(
    rows: Sequence[Mapping[str, Any]], monitor: str, mode: str, since: int | None = None
) -> tuple[int | None, dict[str, float]]:
    """Return the epoch with the best monitor and everything that was logged for it; of equals, the first.

    Args:
        rows: the lines of metrics.jsonl.
        monitor, mode: what is best.
        since: epochs before this one count only where there is none after it; ``best_since`` of a run's record.
    """
    epochs = _epochs(rows)
    scored = {epoch: numbers for epoch, numbers in epochs.items() if isfinite(numbers.get(monitor, float("nan")))}
    scored = {epoch: numbers for epoch, numbers in scored.items() if epoch >= (since or 0)} or scored
    if not scored:
        return None, {}
    best = (min if mode == "min" else max)(scored, key=lambda epoch: scored[epoch][monitor])
    return best, scored[best]


def best_so_far(folder: "RunFolder") -> dict[str, Any]:
    """Return the entries of run.json about the best epoch of a run that did not come to its end.

    Args:
        folder: of a run that knows what it monitors, or else has no best epoch.
    """
    monitor = folder.record.get("monitor")
    if not monitor:
        return {}
    epoch, best = best_epoch(folder.metrics(), monitor, folder.record["mode"], folder.record.get("best_since"))
    return {"best_epoch": epoch, "best": best, "value": best.get(monitor)}


def last_epoch(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return everything that was logged for the last epoch that was trained to its end.

    Args:
        rows: the lines of metrics.jsonl.
    """
    ended = [numbers for _, numbers in sorted(_epochs(rows).items()) if "train/loss" in numbers]
    return ended[-1] if ended else {}


def _epochs(rows: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Return the numbers of each epoch, without those of single steps and of the test."""
    epochs: dict[int, dict[str, float]] = {}
    for row in rows:
        numbers = {
            name: value
            for name, value in row.items()
            if (name.partition("/")[0] in SPLITS or name == "lr") and name != "train/loss_step" and value is not None
        }
        if row.get("epoch") is not None and not any(name.startswith("test/") for name in numbers):
            epochs.setdefault(row["epoch"], {}).update(numbers)
    return epochs
