"""Parameter groups: how much each parameter decays."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from src.core.errors import UserError, nearest
from src.layers.positional_encoding import LearnedPositions
from src.layers.recurrent_cells import InitialState

OFFSETS = (nn.Embedding, nn.EmbeddingBag, LearnedPositions, InitialState)
"""Modules whose parameters are added, or looked up, and multiplied with no input."""


def parameter_groups(model: nn.Module, decays: dict[str, float]) -> list[dict[str, Any]]:
    """Return the trainable parameters as optimizer groups, one for each weight decay.

    Args:
        model: whose parameters are trained.
        decays: λ of each parameter by its name, as `weight_decays` returns it.
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
        model: whose parameters are trained.
        weight_decay: λ of every parameter that is not named.
        norms_and_biases: false gives biases, the parameters of normalisation, embeddings (of positions too) and learned
            initial states λ = 0, whatever names them; a weight that an output layer shares with an embedding counts as an
            embedding.
        by_layer: λ by patterns of names, such as ``layers.0.*``; of several that match, the last counts.

    Raises:
        UserError: if a pattern names no parameter that may decay.
    """
    spared = set() if norms_and_biases else _spared(model)
    may_decay = [name for name, parameter in model.named_parameters() if id(parameter) not in spared]
    decays = {name: 0.0 for name, _ in model.named_parameters()} | dict.fromkeys(may_decay, weight_decay)
    for pattern, decay in (by_layer or {}).items():
        matched = [name for name in may_decay if fnmatchcase(name, pattern)]
        if not matched:
            raise UserError(_names_nothing(pattern, list(decays), may_decay))
        decays |= dict.fromkeys(matched, decay)
    return decays


def _names_nothing(pattern: str, names: list[str], may_decay: list[str]) -> str:
    key = f"regularization.weight_decay_by_layer: the pattern '{pattern}'"
    if any(fnmatchcase(name, pattern) for name in names):
        return f"{key} names only what regularization.decay_norms_and_biases=false spares. {nearest('', may_decay)}"
    return f"{key} names no parameter; * stands for anything. {nearest(pattern, names)}"


def _spared(model: nn.Module) -> set[int]:
    """Return the identities of biases, normalisation parameters and offsets; told by what they belong to and not by
    their shape, which a sharded model changes.
    """
    return {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if "bias" in name or name == "b" or "Norm" in type(module).__name__ or isinstance(module, OFFSETS)
    }
