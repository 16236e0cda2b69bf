"""Parameter groups: the weight decay of each parameter."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from src.core.errors import UserError, nearest
from src.layers.positional_encoding import LearnedPositions
from src.layers.recurrent_cells import InitialState

NO_DECAY_MODULES = (nn.Embedding, nn.EmbeddingBag, LearnedPositions, InitialState)
"""Modules whose parameters are added or looked up, and not multiplied with an input."""


def parameter_groups(model: nn.Module, decays: dict[str, float]) -> list[dict[str, Any]]:
    """Return the trainable parameters as optimizer groups, one for each weight decay.

    Args:
        model: the model to train.
        decays: λ of each parameter by its name, as returned by `weight_decays`.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(decays[name], []).append(parameter)
    return [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]


def weight_decays(
    model: nn.Module, weight_decay: float, norms_and_biases: bool, by_layer: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return λ of each parameter by its name (textbook, L2 Regularization: Layer-Specific).

    Args:
        model: the model to train.
        weight_decay: λ of every parameter that no pattern matches.
        norms_and_biases: false sets λ = 0 for biases, the parameters of normalisation, embeddings (of positions too) and
            learned initial states, even if a pattern matches them; a weight that an output layer shares with an embedding
            counts as an embedding.
        by_layer: λ by patterns of names, such as ``layers.0.*``; if several match, the last one applies.

    Raises:
        UserError: if a pattern matches no parameter that may decay.
    """
    no_decay = set() if norms_and_biases else _no_decay_parameters(model)
    may_decay = [name for name, parameter in model.named_parameters() if id(parameter) not in no_decay]
    decays = {name: 0.0 for name, _ in model.named_parameters()} | dict.fromkeys(may_decay, weight_decay)
    for pattern, decay in (by_layer or {}).items():
        matched = [name for name in may_decay if fnmatchcase(name, pattern)]
        if not matched:
            raise UserError(_no_match(pattern, list(decays), may_decay))
        decays |= dict.fromkeys(matched, decay)
    return decays


def _no_match(pattern: str, names: list[str], may_decay: list[str]) -> str:
    """Return the message for a pattern that matches no parameter that may decay."""
    key = f"regularization.weight_decay_by_layer: the pattern '{pattern}'"
    if any(fnmatchcase(name, pattern) for name in names):
        excluded = "parameters that regularization.decay_norms_and_biases=false excludes"
        return f"{key} matches only {excluded}. {nearest('', may_decay)}"
    return f"{key} matches no parameter; * matches any text. {nearest(pattern, names)}"


def _no_decay_parameters(model: nn.Module) -> set[int]:
    """Return the ids of biases, normalisation parameters and parameters of `NO_DECAY_MODULES`. They are identified by their
    modules and not by their shape, which a sharded model changes.
    """
    return {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if "bias" in name or name == "b" or "Norm" in type(module).__name__ or isinstance(module, NO_DECAY_MODULES)
    }
