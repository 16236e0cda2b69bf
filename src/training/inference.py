"""Load a trained model, evaluate it and predict with it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.compat.lean_imports import lean

with lean():
    import lightning  # noqa: F401 - first import of Lightning, without its unused parts

import torch

from src.config.compose import update
from src.config.schema.run import Config
from src.config.trust import check_recorded_config, log_external_data
from src.config.validate import check
from src.core.batches import Batch
from src.core.data_spec import DataSpec
from src.core.errors import UserError, first_line
from src.datamodules.base import DataModule
from src.datamodules.preparation import load_preparation
from src.models.base import Model
from src.run_store import train_log
from src.run_store.run_folder import RunFolder
from src.tasks.registry import TASKS, check_task
from src.training.build import build_data, build_trainer, construct_model
from src.training.checkpoint_io import construct_within_size, load_checkpoint

log = logging.getLogger(__name__)


# ---- load a run folder or checkpoint ----------------------------------------------------------------------------

_DTYPES = {"64-true": torch.float64, "bf16-true": torch.bfloat16}
"""Data types of the weights by `trainer.precision`, where they differ from torch's default."""


@dataclass(frozen=True)
class LoadedModel:
    """A trained model with the data preparation that it was trained with."""

    config: Config
    datamodule: DataModule
    model: Model
    checkpoint: Path


@contextmanager
def _name_checkpoint_in_errors(checkpoint: Path) -> Iterator[None]:
    """Convert errors of a checkpoint whose parts do not match each other into one that names it."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)[:300]}"
        raise UserError(f"{checkpoint}: its model cannot be used with its data ({reason})") from error


def load(path: Path, overrides: Sequence[str] = ()) -> LoadedModel:
    """Rebuild a trained model from its checkpoint alone.

    Args:
        path: a run folder, whose best weights are loaded, or a checkpoint.
        overrides: changes of the recorded config, such as ``datamodule.path=other.txt``.

    Raises:
        UserError: if there is no such run, or if the file is not a checkpoint of Gridlight.
    """
    file = path
    if path.is_dir():
        folder = RunFolder.open(path)
        file = folder.checkpoint("best" if folder.has_checkpoint("best") else "last")
    checkpoint = load_checkpoint(file)
    recorded = checkpoint["gridlight"]
    literal = check_recorded_config(recorded["config"], file, for_training=False)
    config = check(update(literal, overrides), for_training=False)
    log_external_data(config, overrides)
    datamodule = build_data(config)
    load_preparation(datamodule, recorded["preparation"], file)
    spec, state = DataSpec.from_plain(recorded["spec"]), checkpoint["state_dict"]
    check_task(spec.task)
    model = construct_within_size(
        lambda: construct_model(config, spec, None, datamodule.texts), state, config.model.arguments(), file
    )
    model.to(_DTYPES.get(config.trainer.precision, model.dtype))
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:  # the last two for damaged versions of layers
        raise UserError(f"{file}: the weights do not fit the model that the config describes: {error}") from error
    model.eval()
    return LoadedModel(config, datamodule, model, file)


def evaluate_split(loaded: LoadedModel, split: str) -> dict[str, float]:
    """Return the metrics of a trained model on one split of its data."""
    loaded.datamodule.prepare_data()
    loaded.datamodule.setup()
    loaded.model.evaluated_split = split
    with train_log.log_to(None):
        limit = getattr(loaded.config.trainer, f"limit_{split}_batches")
        if limit is not None:
            log.warning(f"evaluated on a part of the split, as in training: trainer.limit_{split}_batches={limit}")
        settings = loaded.config.trainer.model_copy(
            update={
                "accelerator": "auto",
                "devices": 1,
                "strategy": "auto",
                "profiler": None,
                "detect_anomaly": False,
                "limit_test_batches": limit,
            }
        )
        trainer = build_trainer(loaded.config.model_copy(update={"trainer": settings}))
        loader = loaded.datamodule.loader(split)
        with _name_checkpoint_in_errors(loaded.checkpoint):
            results = trainer.test(loaded.model, dataloaders=loader, verbose=False)
    return {name: float(value) for name, value in results[0].items()}


DrawAttention = Callable[[LoadedModel, Batch, torch.Tensor], Sequence[Sequence[Path]]]


@torch.no_grad()
def predict_batch(
    loaded: LoadedModel, batch: Batch, draw: DrawAttention | None = None, **generation: Any
) -> list[dict[str, Any]]:
    """Return the model's predictions for a batch, in the units and tokens of the data.

    Args:
        loaded: the model with its data preparation.
        batch: a batch, such as the encoded inputs of a user.
        draw: plots the attention of each example, from the batch and the model's outputs; the paths of the plots are added
            to the predictions as ``attention``.
        generation: arguments of the model's `generate`.
    """
    model, datamodule = loaded.model, loaded.datamodule
    generates = TASKS[model.spec.task].generates
    inputs = [tensor.to(model.dtype) if tensor.is_floating_point() else tensor for tensor in batch.inputs]
    with _name_checkpoint_in_errors(loaded.checkpoint):
        outputs = model.generate(inputs[0], **generation) if generates else model(*inputs)
        predictions = datamodule.decode_predictions(model.task.predictions(outputs))
    if draw is not None:
        for prediction, paths in zip(predictions, draw(loaded, batch, outputs), strict=True):
            prediction["attention"] = [str(path) for path in paths]
    return predictions


class Translator:
    """A trained translation model for back-translation.

    Args:
        path: a run folder or a checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self._loaded = load(path)
        self.checkpoint = self._loaded.checkpoint
        self.task = self._loaded.model.spec.task

    def encode(self, texts: Sequence[str]) -> Batch:
        """Return texts as a batch."""
        return self._loaded.datamodule.encode(texts)

    def translate(self, batch: Batch) -> list[str]:
        """Return the most likely translation of each text."""
        return [str(prediction["prediction"]) for prediction in predict_batch(self._loaded, batch, temperature=0.0)]


def continuation(loaded: LoadedModel, batch: Batch, **generation: Any) -> Iterator[str]:
    """Yield a language model's continuation of a prompt in pieces, as it is generated."""
    tokens: list[int] = []
    yielded = ""
    text = ""
    with _name_checkpoint_in_errors(loaded.checkpoint):
        for token in loaded.model.generate_stream(batch.inputs[0], **generation):
            tokens.append(int(token))
            text = loaded.datamodule.decode_predictions([{"tokens": tokens}])[0]["prediction"]
            if not text.endswith("\ufffd"):  # an incomplete character, of which more bytes follow
                yield text[len(yielded) :]
                yielded = text
    yield text[len(yielded) :]
