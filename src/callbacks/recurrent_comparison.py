"""The textbook's table of RNN, LSTM and GRU, measured: parameters, time, memory, and the error at several lags."""

import math
import time
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from src.core.console import number, shown
from src.core.errors import option_name
from src.core.escape import mathtext
from src.core.tables import show
from src.diagnostics.saved_activations import bytes_kept
from src.models.base import Model
from src.run_store.plots import save_picture
from src.run_store.recorded_run import is_number
from src.run_store.run_folder import RunFolder
from src.run_store.sweep_runs import in_sweep, section_of, siblings_with
from src.run_store.tables import show_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEY = "recurrent_comparison"


class RecurrentComparison(Callback):
    """Measures what a run costs and reaches, and in a sweep shows all its runs in one table.

    The numbers are in run.json; the sweep's folder gets recurrent_comparison.md and, where the data vary,
    plots/recurrent_comparison.png, drawn anew by every run that ends. The time of an epoch is that of its training steps:
    of the processor (all threads) where the model is on a CPU, so that other programs do not count, else of the clock.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.seconds: list[float] = []
        self._started: float | None = None  # an epoch within which a run was resumed has no whole time
        self._clock = time.perf_counter

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Model)
        self._clock = time.process_time if pl_module.device.type == "cpu" else time.perf_counter
        batch = next(iter(trainer.datamodule.loader("train")))  # type: ignore[attr-defined]
        batch = type(batch)(*(tensor.to(pl_module.device) for tensor in batch))
        self.folder.update(**{KEY: {"bytes": bytes_kept(pl_module, batch)}})

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
        """The test takes best.ckpt, and with it the times up to then."""
        seconds = sorted(self.seconds)[len(self.seconds) // 2] if self.seconds else None
        self.folder.update(**{KEY: self.folder.record[KEY] | {"seconds": seconds}})

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Model)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}
        trivial = trainer.datamodule.baseline()["test/loss"]  # type: ignore[attr-defined]
        found = {"epochs": trainer.current_epoch, "test": metrics, "trivial": trivial}
        self.folder.update(**{KEY: self.folder.record[KEY] | found})
        if trainer.is_global_zero and in_sweep(self.folder, pl_module.training_config):
            compare(self.folder)


def compare(folder: RunFolder) -> None:
    """Print and write the table of a sweep, and draw its errors.

    Args:
        folder: of one of its runs.
    """
    found = siblings_with(folder, KEY)
    runs = [({group: section_of(run, group) for group in ("model", "datamodule")}, run.record) for run in found]
    runs = [run for run in runs if _is_complete(*run)]
    if not runs:
        return
    runs.sort(key=lambda run: run[0]["datamodule"].get("lag", math.inf))
    rows = []
    for config, record in runs:
        measured = record[KEY]
        rows.append(
            {
                "data": _data(config),
                "model": config["model"]["name"],
                "parameters": f"{record['parameters']:,}",
                "seconds an epoch": number(measured.get("seconds")),
                "MiB a step": f"{measured['bytes'] / 2**20:.2f}",
                "epochs": str(measured["epochs"]),
                "test loss": number(measured["test"]["test/loss"]),
                "trivial answer": number(measured["trivial"]),
            }
        )
    sweep = folder.path.parent
    show_table(sweep, KEY, "recurrent networks, measured", rows)
    if len({_data(config) for config, _ in runs}) > 1:
        show(f"picture: {shown(save_picture(sweep, KEY, _picture(runs)))}")


def _is_complete(config: dict[str, Any], record: dict[str, Any]) -> bool:
    """Return whether a run has been measured, and its config has the keys that are shown."""
    data, found = config["datamodule"], record[KEY]
    numbers = [found.get("trivial"), found.get("test", {}).get("test/loss"), data.get("lag", 0)]
    return (
        isinstance(data.get("_target_"), str)
        and all(is_number(value) and math.isfinite(value) for value in numbers)
        and all(value is not None for value in (record.get("parameters"), found.get("epochs")))
    )


def _source(config: dict[str, Any]) -> str:
    """Return the name of the data whatever their lag, which options such as adding_long set."""
    return option_name(config["datamodule"]["_target_"])


def _data(config: dict[str, Any]) -> str:
    data = config["datamodule"]
    return _source(config) + (f", lag {data['lag']}" if "lag" in data else "")


def _picture(runs: list[tuple[dict[str, Any], dict[str, Any]]]) -> "Figure":
    """Draw the test losses on each data source: against the lag where it has one, else model beside model."""
    from matplotlib.figure import Figure

    points: dict[str, dict[str, list[tuple[Any, float]]]] = {}
    trivial: dict[str, float] = {}
    for config, record in runs:
        data, model = _source(config), config["model"]["name"]
        point = config["datamodule"].get("lag", model), record[KEY]["test"]["test/loss"]
        points.setdefault(data, {}).setdefault(model, []).append(point)
        trivial[data] = record[KEY]["trivial"]
    colours = {model: f"C{place}" for place, model in enumerate(dict.fromkeys(run[0]["model"]["name"] for run in runs))}
    figure = Figure(figsize=(1 + 4 * len(points), 4), layout="constrained")
    for axis, (data, models) in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items(), strict=True):
        for model, found in models.items():
            axis.plot(*zip(*found, strict=True), marker="o", label=mathtext(model), color=colours[model])
        axis.axhline(trivial[data], color="grey", linestyle="--", label="trivial answer")
        against_lag = any("lag" in config["datamodule"] for config, _ in runs if _source(config) == data)
        axis.set(xlabel="lag" if against_lag else "", ylabel="test loss", title=mathtext(data))
        losses = [loss for found in models.values() for _, loss in found]
        if trivial[data] > 10 * min(losses):
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend()
    return figure
