"""Load a trained model; evaluate it and predict with it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.compat.lean_imports import lean

with lean():
    import lightning  # noqa: F401 - before any other import of it, without what a run does not use

import torch

from src.config.compose import update
from src.config.locate import locate
from src.config.schema.run import Config
from src.config.trust import literal_config, name_external_data
from src.config.validate import check
from src.core.batches import Batch
from src.core.data_spec import DataSpec
from src.core.errors import UserError, first_line
from src.datamodules.base import DataModule
from src.datamodules.preparation import take_preparation
from src.models.base import Model
from src.run_store import train_log
from src.run_store.run_folder import RunFolder
from src.tasks.registry import TASKS, check_task
from src.training.build import _tell_texts, build_data, build_trainer
from src.training.checkpoint_io import load_checkpoint, no_larger_than

log = logging.getLogger(__name__)


# ---- from a run folder or checkpoint back to a model ------------------------------------------------------------

_DTYPES = {"64-true": torch.float64, "bf16-true": torch.bfloat16}
"""Types of weights by `trainer.precision`, where they are not torch's own."""


@dataclass(frozen=True)
class Loaded:
    """A trained model with the data preparation that it was trained with."""

    config: Config
    datamodule: DataModule
    model: Model
    checkpoint: Path


@contextmanager
def _fitting(checkpoint: Path) -> Iterator[None]:
    """Turn errors of a model whose recorded parts do not fit each other into one that names the checkpoint."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)[:300]}"
        raise UserError(f"{checkpoint}: its model cannot be used with its data ({reason})") from error


def load(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Rebuild a trained model from its checkpoint alone.

    Args:
        path: a run folder (its best weights are taken) or a checkpoint.
        overrides: keys of the recorded config to change, such as ``datamodule.path=other.txt``.

    Raises:
        UserError: if there is no such run, or if the file is no checkpoint of Gridlight.
    """
    file = path
    if path.is_dir():
        folder = RunFolder.open(path)
        file = folder.best_checkpoint if folder.has_checkpoint("best") else folder.last_checkpoint
    checkpoint = load_checkpoint(file)
    recorded = checkpoint["gridlight"]
    literal = literal_config(recorded["config"], file, for_training=False)
    config = check(update(literal, overrides), for_training=False)
    name_external_data(config, overrides)
    datamodule = build_data(config)
    take_preparation(datamodule, recorded["preparation"], file)
    spec, state = DataSpec.from_plain(recorded["spec"]), checkpoint["state_dict"]
    check_task(spec.task)
    arguments = config.model.arguments()
    with no_larger_than(state, arguments, file):
        model = locate(config.model.target or "", Model, "model._target_")(spec=spec, **arguments)
    model.to(_DTYPES.get(config.trainer.precision, model.dtype))
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:  # the last two for damaged versions of its layers
        raise UserError(f"{file}: the weights do not fit the model that the config describes: {error}") from error
    model.training_config = config
    _tell_texts(model, datamodule)
    model.eval()
    return Loaded(config, datamodule, model, file)


def measure(loaded: Loaded, split: str) -> dict[str, float]:
    """Return the metrics of a trained model on one split of its data."""
    loaded.datamodule.prepare_data()
    loaded.datamodule.setup()
    loaded.model.measured_split = split
    with train_log.log_to(None):
        here = {"accelerator": "auto", "devices": 1, "strategy": "auto", "profiler": None, "detect_anomaly": False}
        limit = getattr(loaded.config.trainer, f"limit_{split}_batches")
        if limit is not None:
            log.warning(f"measured as in training, on a part of the split: trainer.limit_{split}_batches={limit}")
        settings = loaded.config.trainer.model_copy(update=here | {"limit_test_batches": limit})
        trainer = build_trainer(loaded.config.model_copy(update={"trainer": settings}))
        loader = loaded.datamodule.loader(split)
        with _fitting(loaded.checkpoint):
            tested = trainer.test(loaded.model, dataloaders=loader, verbose=False)
    return {name: float(value) for name, value in tested[0].items()}


Draw = Callable[[Loaded, Batch, torch.Tensor], Sequence[Sequence[Path]]]


@torch.no_grad()
def answer(loaded: Loaded, batch: Batch, draw: Draw | None = None, **generation: Any) -> list[dict[str, Any]]:
    """Return the model's answers to a batch, in the data's own units and words.

    Args:
        loaded: the model with its data preparation.
        batch: what `encode` made of a person's inputs.
        draw: draws the attention behind each answer, from the batch and the model's outputs; the answer then names the files.
        generation: arguments of the model's `generate`.
    """
    model, datamodule = loaded.model, loaded.datamodule
    generates = TASKS[model.spec.task].generates
    inputs = [tensor.to(model.dtype) if tensor.is_floating_point() else tensor for tensor in batch.inputs]
    with _fitting(loaded.checkpoint):
        outputs = model.generate(inputs[0], **generation) if generates else model(*inputs)
        answers = datamodule.answers(model.task.answers(outputs))
    if draw is not None:
        for found, paths in zip(answers, draw(loaded, batch, outputs), strict=True):
            found["attention"] = [str(path) for path in paths]
    return answers


class Translator:
    """A trained translation model, as back-translation uses it.

    Args:
        path: a run or a checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self._loaded = load(path)
        self.checkpoint = self._loaded.checkpoint
        self.task = self._loaded.model.spec.task

    def encode(self, texts: Sequence[str]) -> Batch:
        """Return texts as a batch."""
        return self._loaded.datamodule.encode(texts)

    def translate(self, batch: Batch) -> list[str]:
        """Return the likeliest translation of each text."""
        return [str(given["prediction"]) for given in answer(self._loaded, batch, temperature=0.0)]


def continuation(loaded: Loaded, batch: Batch, **generation: Any) -> Iterator[str]:
    """Yield a language model's continuation of a prompt piece by piece, as it is generated."""
    tokens: list[int] = []
    shown = ""
    text = ""
    with _fitting(loaded.checkpoint):
        for chosen in loaded.model.generate_stream(batch.inputs[0], **generation):
            tokens.append(int(chosen))
            text = loaded.datamodule.answers([{"tokens": tokens}])[0]["prediction"]
            if not text.endswith("\ufffd"):  # it may be the first bytes of a character whose others are still to come
                yield text[len(shown) :]
                shown = text
    yield text[len(shown) :]
