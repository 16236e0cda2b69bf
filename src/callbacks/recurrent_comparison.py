"""Comparison table of RNN, LSTM and GRU (textbook): parameters, time, memory, and the error at several lags."""

import math
import time
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from src.core.console import display_path, format_number
from src.core.errors import option_name
from src.core.escape import mathtext
from src.core.tables import show
from src.diagnostics.saved_activations import saved_bytes
from src.models.base import Model
from src.run_store.plots import save_figure
from src.run_store.recorded_run import is_number
from src.run_store.run_folder import RunFolder
from src.run_store.sweep_runs import in_sweep, section_of, sweep_runs_with
from src.run_store.tables import show_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEY = "recurrent_comparison"


class RecurrentComparison(Callback):
    """Measure the cost and the test error of a run; in a sweep, compare all its runs in one table.

    The values are in run.json. Every run of a sweep updates recurrent_comparison.md in the sweep folder when it ends and,
    if the runs have different data, plots/recurrent_comparison.png. The time of an epoch is that of its training steps:
    CPU time of all threads for a model on a CPU, so that other programs do not count, and otherwise wall-clock time.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.seconds: list[float] = []
        self._started: float | None = None  # None in an epoch within which the run was resumed
        self._clock = time.perf_counter

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Model)
        self._clock = time.process_time if pl_module.device.type == "cpu" else time.perf_counter
        batch = next(iter(trainer.datamodule.loader("train")))  # type: ignore[attr-defined]
        batch = type(batch)(*(tensor.to(pl_module.device) for tensor in batch))
        self.folder.update(**{KEY: {"bytes": saved_bytes(pl_module, batch)}})

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = self._clock()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch and self._started is not None:
            self.seconds.append(self._clock() - self._started)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        seconds = state_dict["seconds"]
        if not isinstance(seconds, list) or not all(isinstance(value, float) for value in seconds):
            raise ValueError("the seconds of its epochs are not numbers")
        self.seconds = seconds

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the time now: the test loads best.ckpt, which restores the times up to the best epoch."""
        seconds = sorted(self.seconds)[len(self.seconds) // 2] if self.seconds else None
        self.folder.update(**{KEY: self.folder.record[KEY] | {"seconds": seconds}})

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Model)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
        baseline = trainer.datamodule.baseline()["test/loss"]  # type: ignore[attr-defined]
        results = {"epochs": trainer.current_epoch, "test": metrics, "baseline": baseline}
        self.folder.update(**{KEY: self.folder.record[KEY] | results})
        if trainer.is_global_zero and in_sweep(self.folder, pl_module.training_config):
            compare(self.folder)


def compare(folder: RunFolder) -> None:
    """Print and write the table of a sweep, and plot its test losses.

    Args:
        folder: folder of one of its runs.
    """
    runs = [
        ({group: section_of(run, group) for group in ("model", "datamodule")}, run.record)
        for run in sweep_runs_with(folder, KEY)
    ]
    runs = [run for run in runs if _is_complete(*run)]
    if not runs:
        return
    runs.sort(key=lambda run: run[0]["datamodule"].get("lag", math.inf))
    rows = []
    for config, record in runs:
        results = record[KEY]
        rows.append(
            {
                "data": _data(config),
                "model": config["model"]["name"],
                "parameters": f"{record['parameters']:,}",
                "seconds per epoch": format_number(results.get("seconds")),
                "MiB per step": f"{results['bytes'] / 2**20:.2f}",
                "epochs": str(results["epochs"]),
                "test loss": format_number(results["test"]["test/loss"]),
                "naive baseline": format_number(results["baseline"]),
            }
        )
    sweep = folder.path.parent
    show_table(sweep, KEY, "comparison of recurrent networks", rows)
    if len({_data(config) for config, _ in runs}) > 1:
        show(f"plot: {display_path(save_figure(sweep, KEY, _figure(runs)))}")


def _is_complete(config: dict[str, Any], record: dict[str, Any]) -> bool:
    """Return whether a run has all measurements, and its config has the keys that are shown."""
    data, results = config["datamodule"], record[KEY]
    numbers = [results.get("baseline"), results.get("test", {}).get("test/loss"), data.get("lag", 0)]
    return (
        isinstance(data.get("_target_"), str)
        and all(is_number(value) and math.isfinite(value) for value in numbers)
        and all(value is not None for value in (record.get("parameters"), results.get("epochs")))
    )


def _source(config: dict[str, Any]) -> str:
    """Return the name of the data without their lag: options such as adding_long only differ in it."""
    return option_name(config["datamodule"]["_target_"])


def _data(config: dict[str, Any]) -> str:
    data = config["datamodule"]
    return _source(config) + (f", lag {data['lag']}" if "lag" in data else "")


def _figure(runs: list[tuple[dict[str, Any], dict[str, Any]]]) -> "Figure":
    """Plot the test losses on each data source, against the lag if it has one, otherwise by model."""
    from matplotlib.figure import Figure

    points: dict[str, dict[str, list[tuple[Any, float]]]] = {}
    baselines: dict[str, float] = {}
    for config, record in runs:
        data, model = _source(config), config["model"]["name"]
        point = config["datamodule"].get("lag", model), record[KEY]["test"]["test/loss"]
        points.setdefault(data, {}).setdefault(model, []).append(point)
        baselines[data] = record[KEY]["baseline"]
    colours = {model: f"C{index}" for index, model in enumerate(dict.fromkeys(run[0]["model"]["name"] for run in runs))}
    figure = Figure(figsize=(1 + 4 * len(points), 4), layout="constrained")
    for axis, (data, models) in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items(), strict=True):
        for model, model_points in models.items():
            axis.plot(*zip(*model_points, strict=True), marker="o", label=mathtext(model), color=colours[model])
        axis.axhline(baselines[data], color="grey", linestyle="--", label="naive baseline")
        against_lag = any("lag" in config["datamodule"] for config, _ in runs if _source(config) == data)
        axis.set(xlabel="lag" if against_lag else "", ylabel="test loss", title=mathtext(data))
        losses = [loss for model_points in models.values() for _, loss in model_points]
        if baselines[data] > 10 * min(losses):
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend()
    return figure
