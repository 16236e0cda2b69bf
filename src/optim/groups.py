"""Parameter groups: how much each parameter decays."""

from typing import Any

from torch import nn

from src.layers.positions import LearnedPositions

EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag, LearnedPositions)


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


def weight_decays(model: nn.Module, weight_decay: float, norms_and_biases: bool) -> dict[str, float]:
    """Return λ of each parameter by its name (textbook, L2 Regularization: Layer-Specific).

    Args:
        model: whose parameters are trained.
        weight_decay: λ.
        norms_and_biases: false gives biases, the parameters of normalisation and embeddings (of positions too) λ = 0;
            a weight that an output layer shares with an embedding counts as an embedding.
    """
    spared = set() if norms_and_biases else _spared(model)
    return {name: 0.0 if id(parameter) in spared else weight_decay for name, parameter in model.named_parameters()}


def _spared(model: nn.Module) -> set[int]:
    """Return the identities of biases, normalisation parameters and embeddings; told by what they belong to and not by
    their shape, which a sharded model changes.
    """
    return {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if "bias" in name or "Norm" in type(module).__name__ or isinstance(module, EMBEDDINGS)
    }
