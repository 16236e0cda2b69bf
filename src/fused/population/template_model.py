"""The network that all members share in fused training; it is called with the tensors of the members."""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.fused.layers import folded
from src.fused.layers.attention import MemberAttention
from src.fused.layers.dropout import HasDropoutRate, member_dropout
from src.fused.layers.linear import MemberLinear
from src.fused.layers.recurrent import MemberCell, MemberRNN
from src.layers.attention import MultiHeadAttention
from src.layers.dropout import DropConnect, StochasticDepth
from src.layers.recurrent_cells import Cell
from src.models.base import Model
from src.models.recurrent import Recurrent

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)

DropoutPosition = tuple[str, int, int]
"""Position of a dropout layer that does not depend on the other layers: kind, number of parameters before it, and index among
the layers of this kind there."""


class TemplateModel:
    """A model that is called with the tensors of the members, within a vmap or with all their examples as one batch.

    Its dropout rates are tensors, and modules with a faster implementation for all members are replaced by it.

    Args:
        models: the members. Where one member has dropout and another has not, the rate of the other is 0.

    Raises:
        ValueError: if no member has all dropout layers that any member has, or for a module that is not supported.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        rates = [{position: rate for position, _, rate in _dropout_rates(model)} for model in models]
        model, all_positions = max(zip(models, rates, strict=True), key=lambda pair: len(pair[1]))
        for model_rates in rates:
            if extra := [position for position, rate in model_rates.items() if rate and position not in all_positions]:
                raise ValueError(f"the models have dropout at different positions: only some have {extra[0][0]} there")
        self.trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        """Names in the network of the tensors that `trainable` and `other_tensors` return for each member, in the same order."""
        self.other_tensors = [name for name, _ in other_tensors(model)]
        self.can_fold = folded.can_fold(model)
        """Whether the network takes the examples of all members as one batch, instead of one member's within a vmap."""
        self.network = _copy_structure(model)
        for name, module in list(self.network.named_modules()):
            replacement = folded.folded_module(module) if self.can_fold else _member_module(module)
            if replacement is not None:
                _replace_module(self.network, name, replacement)
        self.rates: dict[str, Tensor] = {}
        like = next(model.parameters())
        for position, name, _ in _dropout_rates(model):
            member_rates = [model_rates.get(position, 0.0) for model_rates in rates]
            if any(member_rates):
                module = self.network.get_submodule(name)
                if not isinstance(module, HasDropoutRate):
                    module = _replace_module(self.network, name, member_dropout(module))
                module.has_dropout = True
                self.rates[f"{name}.rate"] = torch.tensor(member_rates, dtype=like.dtype, device=like.device)

    def select(self, rows: Tensor) -> None:
        """Continue with the members of these rows [M] only."""
        self.rates = {name: rate[rows] for name, rate in self.rates.items()}

    def mode(self, training: bool) -> Model:
        """Return the network in training or evaluation mode."""
        if self.network.training is not training:
            self.network.train(training)
        return self.network


def _copy_structure(model: Model) -> Model:
    """Return a copy of a model whose modules can be replaced; it shares tensors, config, task and trainer with the model."""
    copied = ("_modules", "_parameters", "_buffers")
    attributes = (value for key, value in vars(model).items() if key not in copied)
    shared = (*model.parameters(), *model.buffers(), *attributes)
    return copy.deepcopy(model, {id(value): value for value in shared})


def _replace_module(network: nn.Module, name: str, module: Any) -> Any:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
    return module


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the trainable parameters of a model."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def other_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the other tensors of a model by name: frozen parameters and buffers."""
    return [*((n, p) for n, p in model.named_parameters() if not p.requires_grad), *model.named_buffers()]


def _dropout_rates(model: Model) -> Iterator[tuple[DropoutPosition, str, float]]:
    """Yield the position of each dropout layer, the name of the module in the template that applies it, and its rate."""
    parameters_before, count = 0, Counter[tuple[str, int]]()
    for name, module in model.named_modules():
        for kind, module_name, rate in _rates_of(model, name, module):
            yield (kind, parameters_before, count[kind, parameters_before]), module_name, rate
            count[kind, parameters_before] += 1
        parameters_before += len(list(module.parameters(recurse=False)))


def _rates_of(model: Model, name: str, module: nn.Module) -> Iterator[tuple[str, str, float]]:
    kind = type(module).__name__
    if isinstance(module, DROPOUTS):
        yield kind, name, module.p
    elif isinstance(module, DropConnect | StochasticDepth):
        yield kind, name, module.drop
    elif isinstance(module, MultiHeadAttention):
        yield kind, name, module.dropout
    elif isinstance(module, nn.RNNBase):
        yield "Dropout between layers", f"{name}.dropout", module.dropout
        if isinstance(model, Recurrent):
            yield "DropConnect from state to state", name, model.drop_connect


def _member_module(module: nn.Module) -> nn.Module | None:
    """Return the module that replaces a given one within a vmap over members; None if it stays."""
    if isinstance(module, MultiHeadAttention):
        return MemberAttention(module)
    if isinstance(module, Cell):
        return MemberCell(module)
    if isinstance(module, nn.RNNBase):
        return MemberRNN(module)
    if type(module) is nn.Linear:
        return MemberLinear(module)
    return None
