"""Compute and plot the attention maps of a model."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from src.core.batches import Batch, LanguageBatch, SequenceBatch, TranslationBatch
from src.core.errors import UserError
from src.core.escape import mathtext
from src.datamodules.base import DataModule
from src.layers.attention import record_attention_weights
from src.models.base import Model
from src.run_store.plots import save_figure

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

MAX_TICKS = 48
"""Maximum number of ticks along an axis; for longer sequences, only every second, third, … step is labelled."""


@torch.no_grad()
def attention_maps(model: Model, batch: Batch) -> dict[str, Tensor]:
    """Return the attention weights of a model for one example, by kind of attention.

    Args:
        model: model in evaluation mode, without dropout.
        batch: a single example, without padding.

    Returns:
        A dictionary such as {"encoder-attention": …, "decoder-attention": …, "decoder-cross": …} with tensors [layers,
        heads, T, S]; row t contains the weights of query t for every key, and sums to one.

    Raises:
        UserError: if the model has no attention.
    """
    assert not model.training and len(batch[0]) == 1
    with record_attention_weights(model) as layers:
        if not layers:
            raise UserError(f"{type(model).__name__} has no attention; model=transformer has")
        model(*batch.inputs)
        kinds: dict[str, list[Tensor]] = {}
        for name, layer in layers.items():
            assert layer.weights is not None
            kind = re.sub(r"\.(blocks\.)?\d*\.?", "-", name)
            kinds.setdefault(kind, []).append(layer.weights[0].cpu())
    return {kind: torch.stack(weights) for kind, weights in kinds.items()}


def draw_attention(
    model: Model, datamodule: DataModule, batch: Batch, folder: Path, name: str, loggers: Sequence[Logger] = ()
) -> list[list[Path]]:
    """Plot the attention maps of every example of a batch, and return the paths of the plots of each.

    Args:
        model: a trained model.
        datamodule: its datamodule, which has the names of the tokens.
        batch: a few examples.
        folder: the run folder; the files are plots/<name>-<example>-<kind>.png.
        name: prefix of the file names.
        loggers: loggers of the run, for Weights & Biases.

    Raises:
        UserError: if the model has no attention.
    """
    paths: list[list[Path]] = []
    for index in range(len(batch[0])):
        example = single_example(batch, index, model.spec.padding_id)
        paths.append([])
        for kind, weights in attention_maps(model, example).items():
            figure = _figure(kind, weights, *_labels(kind, datamodule, example, weights))
            paths[-1].append(save_figure(folder, f"{name}-{index + 1}-{kind}", figure, loggers))
    return paths


def append_generated(batch: Batch, generated: Tensor, start: int | None) -> Batch:
    """Return a batch with the tokens [B, N] that a model generated for it, in the form of a training batch."""
    if isinstance(batch, TranslationBatch):
        assert start is not None
        return batch._replace(target=torch.cat((torch.full_like(generated[:, :1], start), generated), 1))
    assert isinstance(batch, LanguageBatch)
    return LanguageBatch(torch.cat((batch.inputs[0], generated), 1))


def single_example(batch: Batch, index: int, padding: int | None) -> Batch:
    """Return one example of a batch as a batch of size 1, without its padding."""
    example = type(batch)(*(tensor[index : index + 1] for tensor in batch))
    if isinstance(example, SequenceBatch):
        return example._replace(x=example.x[:, : int(example.lengths)])
    if isinstance(example, TranslationBatch) and padding is not None:
        source, target = (tokens[:, : int((tokens != padding).sum())] for tokens in example)
        return TranslationBatch(source, target)
    return example


def _labels(kind: str, datamodule: DataModule, batch: Batch, weights: Tensor) -> tuple[list[str], list[str]]:
    """Return the labels of the queries [T] and of the keys [S].

    In cross-attention, a query is labelled by the next token of the target, which it predicts.
    """
    queries, keys = weights.shape[2:]
    if isinstance(batch, TranslationBatch):
        source = datamodule.token_names(batch.source[0].tolist())
        inputs, targets = (
            datamodule.token_names(tokens[0].tolist(), True) for tokens in (batch.inputs[1], batch.targets)
        )
        if kind.startswith("encoder"):
            return source, source
        return (targets, source) if kind.endswith("cross") else (inputs, inputs)
    if isinstance(batch, LanguageBatch) or datamodule.inputs == "tokens":
        names = datamodule.token_names(batch.inputs[0][0].tolist())
        return names, names
    return [str(step) for step in range(1, queries + 1)], [str(step) for step in range(1, keys + 1)]


def _figure(kind: str, weights: Tensor, queries: list[str], keys: list[str]) -> "Figure":
    from matplotlib.figure import Figure

    layers, heads = weights.shape[:2]
    width, height = (max(2.2, 0.16 * min(len(names), MAX_TICKS)) for names in (keys, queries))
    figure = Figure(figsize=(heads * width + 1, layers * height + 1), layout="constrained")
    panels = figure.subplots(layers, heads, squeeze=False, sharex=True, sharey=True)
    for layer in range(layers):
        for head in range(heads):
            axes = panels[layer][head]
            image = axes.imshow(weights[layer, head].float().numpy(), vmin=0, vmax=1, cmap="Blues", aspect="auto")
            axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8)
            _label_ticks(axes.xaxis, keys)
            _label_ticks(axes.yaxis, queries)
            for label in axes.get_xticklabels():
                if len(label.get_text()) > 2:  # horizontal labels would overlap
                    label.set_rotation("vertical")
    figure.colorbar(image, ax=panels, shrink=0.6, label="weight")
    figure.supxlabel("source token" if kind.endswith("cross") else "key")
    figure.supylabel("next target token" if kind.endswith("cross") else "query")
    figure.suptitle(kind.replace("-", ", ").replace("attention", "self-attention").replace("cross", "cross-attention"))
    return figure


def _label_ticks(axis: "Axis", names: list[str]) -> None:
    every = math.ceil(len(names) / MAX_TICKS)
    axis.set_ticks(range(0, len(names), every), [mathtext(name, 40) for name in names[::every]], fontsize=6)
