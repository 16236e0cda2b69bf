"""Preview of augmented and mixed training examples."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor

from src.config.schema.regularization import Regularization
from src.config.schema.run import Config
from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.core.escape import mathtext
from src.core.random_state import random_state, restore_random_state
from src.core.tables import Rows
from src.datamodules.base import DataModule
from src.regularization.batch_transform import batch_transform
from src.regularization.mixup_cutmix import Mixing
from src.training.experiment import prepare_datamodule

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXAMPLES = 6
DRAWS = {"image": 7, "audio": 4, "text": 2}
"""Number of augmented versions of each example; sounds and texts need more space than images."""
MAX_TEXT_LENGTH = 300
"""Number of characters shown of a text."""


def augmentation_preview(config: Config) -> "Figure | Rows":
    """Show some training examples beside several augmented and mixed versions of each: images or the spectrograms or
    waveforms of sounds with their labels as a figure, or texts as a table.

    Args:
        config: a validated config; its seed determines the random draws.

    Raises:
        UserError: if the examples have no preview, or if the config does not change training examples.
    """
    with _seeded(config.seed):
        data = prepare_datamodule(config)
    kind = data.raw or data.spec.inputs
    if kind not in DRAWS:
        raise UserError(
            f"preview augmentation: it shows images, sounds and texts, and one input of {config.datamodule.name} is a "
            f"{kind}."
        )
    transform = batch_transform(config, data.spec)
    if transform is None and data.augmentation is None:
        choices = {
            "image": "augmentation, trivial_augment, mixup, cutmix",
            "audio": "audio_augmentation, augmentation, mixup",
            "text": "synonyms, or regularization.back_translation,",
        }
        raise UserError(
            f"preview augmentation: nothing changes training examples here. Try regularization={choices[kind]} or a "
            "list of them."
        )
    with _seeded(config.seed):
        return _texts(config, data) if kind == "text" else _figure(config, data, kind, transform)


# ---- texts ---------------------------------------------------------------------------------------------------------


def _texts(config: Config, data: DataModule) -> Rows:
    texts, labels = data.training_texts(), data.split("train").targets
    rows = []
    for i in torch.randperm(len(texts))[:EXAMPLES].tolist():
        row = {"label": _label(data.spec, labels[i]), "text": _shorten(texts[i])}
        rows.append(row | {f"draw {n}": _shorten(data.augmentation(texts[i])) for n in range(1, DRAWS["text"] + 1)})
    return Rows(_title(config, "texts", "text"), rows)


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_TEXT_LENGTH else text[: MAX_TEXT_LENGTH - 1] + "…"


# ---- images and sounds ---------------------------------------------------------------------------------------------


def _figure(config: Config, data: DataModule, kind: str, transform: Any) -> "Figure":
    """Plot the first examples of a training batch; the whole batch is transformed, as in training.

    All images have one brightness scale, that of the original batch; values outside it are clipped.
    """
    from matplotlib.figure import Figure

    original, augment = _batch_and_augment(data)
    rows = min(EXAMPLES, len(original.targets))
    spec, labels = data.spec, original.targets
    columns = [(original.inputs[0], [_label(spec, y) for y in labels[:rows]])]
    for _ in range(DRAWS[kind]):
        changed, mixing = augment(), None
        if transform is not None:
            changed, mixing = transform(changed)
        texts = [_label(spec, y) for y in changed.targets[:rows]]
        if mixing is not None:
            texts = [_mixed(spec, labels, mixing, row) for row in range(rows)]
        columns.append((changed.inputs[0], texts))

    longest = max(len(line) for _, texts in columns for text in texts for line in text.split("\n"))
    width = max(2.2 if kind == "audio" else 1.3, 0.075 * longest)
    lines = max(text.count("\n") for _, texts in columns for text in texts)
    figure = Figure(figsize=(width * len(columns), (1.5 + 0.13 * lines) * rows), layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    originals = columns[0][0]
    darkest, brightest = originals.amin((0, 2, 3)), originals.amax((0, 2, 3))
    show = {"audio": _show_sound, "image": _show_image}[kind]
    for column, (examples, texts) in enumerate(columns):
        for row, axes in enumerate(grid[:, column]):
            axes.set_axis_off()
            show(axes, config, examples[row], darkest, brightest)
            axes.set_title(texts[row], fontsize=8)
    figure.suptitle(_title(config, {"audio": "sounds", "image": "images"}[kind], kind))
    return figure


def _batch_and_augment(data: DataModule) -> tuple[Batch, Callable[[], Batch]]:
    """Return the first training batch without augmentation, and a function that returns an augmented version of it."""
    if data.augmentation is None:
        batch = next(iter(data.loader("train", shuffle=True)))
        return batch, lambda: batch
    split = data.split("train")
    assert isinstance(split, LabelledBatch)
    index = torch.randperm(len(split.y))[: data.batch_size]
    read = data.readers.get("train")
    batch = split._replace(x=read(index, False) if read else split.x[index], y=split.y[index])
    return batch, lambda: batch._replace(x=read(index, True) if read else data.augmented(index))


def _show_image(axes: "Axes", config: Config, image: Tensor, darkest: Tensor, brightest: Tensor) -> None:
    axes.imshow(_to_display(image, darkest, brightest), cmap="gray", vmin=0, vmax=1)


def _show_sound(axes: "Axes", config: Config, sound: Tensor, darkest: Tensor, brightest: Tensor) -> None:
    """Plot a spectrogram [1, frames, bands] from left to right with low bands at the bottom, or a waveform."""
    low, high = float(darkest.min()), float(brightest.max())
    if getattr(config.datamodule, "features", "") == "waveform":
        axes.plot(sound.flatten().numpy(), linewidth=0.4)
        axes.set_ylim(low, high)
    else:
        axes.imshow(sound[0].T.numpy(), origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high)


def _to_display(image: Tensor, darkest: Tensor, brightest: Tensor) -> "np.ndarray[Any, Any]":
    """Return [H, W] or [H, W, 3] from 0 to 1; for images that are neither grey nor RGB, the mean of their channels."""
    span = torch.where(brightest > darkest, brightest - darkest, 1)
    unit = ((image.permute(1, 2, 0) - darkest) / span).clamp(0, 1)
    return (unit if unit.size(2) == 3 else unit.mean(2)).numpy()


# ---- titles and labels ---------------------------------------------------------------------------------------------


def _title(config: Config, examples: str, kind: str) -> str:
    changes = ", ".join(f"{name}={value}" for name, value in _changes(config.regularization).items())
    return mathtext(f"{config.datamodule.name}: training {examples} (left) and {DRAWS[kind]} draws of {changes}", 1000)


def _changes(knobs: Regularization) -> dict[str, str]:
    """Return the options that change examples, with their values."""
    numbers: dict[str, float] = knobs.augmentation.enabled()
    numbers |= {key: alpha for key in ("mixup_alpha", "cutmix_alpha") if (alpha := getattr(knobs, key))}
    changes = {name: f"{strength:g}" for name, strength in numbers.items()}
    for section, keys in (("audio", knobs.audio.enabled()), ("synonyms", knobs.synonyms.enabled())):
        for key in keys:
            name = key.rpartition(".")[2]
            changes[section if name == "probability" else name] = str(getattr(getattr(knobs, section), name))
    if knobs.back_translation.enabled():
        changes["back_translation"] = f"{knobs.back_translation.probability:g}"
    return changes


def _label(spec: DataSpec, target: Tensor) -> str:
    if spec.task in ("classification", "binary_classification"):
        number = f"{target:g}" if target.is_floating_point() else str(int(target))
        return mathtext(spec.class_names[int(target)], 60) if spec.class_names else number
    return ", ".join(f"{value:.3g}" for value in target.flatten().tolist())


def _mixed(spec: DataSpec, labels: Tensor, mixing: Mixing, row: int) -> str:
    label, partner = _label(spec, labels[row]), _label(spec, labels[mixing.partner[row]])
    return f"{mixing.share:.2f} × {label}\n+ {1 - mixing.share:.2f} × {partner}" if label != partner else label


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the random number generators of Python, NumPy and torch, and restore their states at the end."""
    state = random_state(torch.device("cpu"))
    L.seed_everything(seed, verbose=False)
    try:
        yield
    finally:
        restore_random_state(state, torch.device("cpu"))
