"""Find the best epoch of a run in its logged metrics."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from src.core.data_spec import SPLITS

if TYPE_CHECKING:
    from src.run_store.run_folder import RunFolder


def best_epoch(
    rows: Sequence[Mapping[str, Any]], monitor: str, mode: str, since: int | None = None
) -> tuple[int | None, dict[str, float]]:
    """Return the epoch with the best value of the monitor, and all metrics of that epoch; of equal epochs, the first.

    Args:
        rows: the lines of metrics.jsonl.
        monitor: the name of the monitored metric.
        mode: ``min`` or ``max``.
        since: earlier epochs count only if there is none from this one on; ``best_since`` of a run's record.
    """
    epochs = _metrics_by_epoch(rows)
    scored = {epoch: metrics for epoch, metrics in epochs.items() if isfinite(metrics.get(monitor, float("nan")))}
    scored = {epoch: metrics for epoch, metrics in scored.items() if epoch >= (since or 0)} or scored
    if not scored:
        return None, {}
    best = (min if mode == "min" else max)(scored, key=lambda epoch: scored[epoch][monitor])
    return best, scored[best]


def best_so_far(folder: "RunFolder") -> dict[str, Any]:
    """Return the entries of run.json about the best epoch of a run that did not finish.

    Args:
        folder: the run's folder. If its record has no monitor, there is no best epoch.
    """
    monitor = folder.record.get("monitor")
    if not monitor:
        return {}
    epoch, best = best_epoch(folder.metrics(), monitor, folder.record["mode"], folder.record.get("best_since"))
    return {"best_epoch": epoch, "best": best, "value": best.get(monitor)}


def last_epoch(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the metrics of the last complete epoch.

    Args:
        rows: the lines of metrics.jsonl.
    """
    complete = [metrics for _, metrics in sorted(_metrics_by_epoch(rows).items()) if "train/loss" in metrics]
    return complete[-1] if complete else {}


def _metrics_by_epoch(rows: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Return the metrics of each epoch, without those of single steps and of the test."""
    epochs: dict[int, dict[str, float]] = {}
    for row in rows:
        metrics = {
            name: value
            for name, value in row.items()
            if (name.partition("/")[0] in SPLITS or name == "lr") and name != "train/loss_step" and value is not None
        }
        if row.get("epoch") is not None and not any(name.startswith("test/") for name in metrics):
            epochs.setdefault(row["epoch"], {}).update(metrics)
    return epochs
