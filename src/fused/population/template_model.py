"""The network that all members share while they are trained as one: it has no tensors of its own."""

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
"""Where something is dropped, whatever else a model has: what, after how many parameters, and its number there."""


class TemplateModel:
    """A model of the members' shape to call with their tensors, within a vmap or with the examples of all as one batch.

    Its rates of dropping are tensors, and what has a faster form for all members is replaced by it.

    Args:
        models: the members. Where something is dropped in one and not in another, the rate of the other is 0.

    Raises:
        ValueError: if no member drops wherever any member does, or for a module that has no form for members.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        rates = [{place: rate for place, _, rate in _dropout_rates(model)} for model in models]
        model, whole = max(zip(models, rates, strict=True), key=lambda pair: len(pair[1]))
        for own in rates:
            if more := [place for place, rate in own.items() if rate and place not in whole]:
                raise ValueError(f"the models drop at different places: {more[0][0]} is in some, and not in all others")
        self.trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        """The network's names of what `trained` and `others` return, in the order of every member's."""
        self.other_tensors = [name for name, _ in other_tensors(model)]
        self.can_fold = folded.can_fold(model)
        """Whether the network takes the examples of all members as one batch, and not one member's within a vmap."""
        self.network = _shell(model)
        for name, module in list(self.network.named_modules()):
            form = folded.folded_module(module) if self.can_fold else _member_module(module)
            if form is not None:
                _put(self.network, name, form)
        self.rates: dict[str, Tensor] = {}
        like = next(model.parameters())
        for place, name, _ in _dropout_rates(model):
            members = [own.get(place, 0.0) for own in rates]
            if any(members):
                module = self.network.get_submodule(name)
                if not isinstance(module, HasDropoutRate):
                    module = _put(self.network, name, member_dropout(module))
                module.has_dropout = True
                self.rates[f"{name}.rate"] = torch.tensor(members, dtype=like.dtype, device=like.device)

    def select(self, rows: Tensor) -> None:
        """Go on with these members [M]."""
        self.rates = {name: rate[rows] for name, rate in self.rates.items()}

    def mode(self, training: bool) -> Model:
        """Return the network, training or evaluating."""
        if self.network.training is not training:
            self.network.train(training)
        return self.network


def _shell(model: Model) -> Model:
    """Return a copy of a model in which modules can be replaced; tensors, config, task and trainer are the model's own."""
    own = ("_modules", "_parameters", "_buffers")
    shared = (*model.parameters(), *model.buffers(), *(value for key, value in vars(model).items() if key not in own))
    return copy.deepcopy(model, {id(thing): thing for thing in shared})


def _put(network: nn.Module, name: str, module: Any) -> Any:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
    return module


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a model that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def other_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the other tensors of a model by their names: buffers, and parameters that are not trained."""
    return [*((n, p) for n, p in model.named_parameters() if not p.requires_grad), *model.named_buffers()]


def _dropout_rates(model: Model) -> Iterator[tuple[DropoutPosition, str, float]]:
    """Yield where a model may drop, the name of the module that does it in the template, and the rate."""
    before, seen = 0, Counter[tuple[str, int]]()
    for name, module in model.named_modules():
        for kind, name_there, rate in _rates_of(model, name, module):
            yield (kind, before, seen[kind, before]), name_there, rate
            seen[kind, before] += 1
        before += len(list(module.parameters(recurse=False)))


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
    """Return the form for members of a module that has one of its own."""
    if isinstance(module, MultiHeadAttention):
        return MemberAttention(module)
    if isinstance(module, Cell):
        return MemberCell(module)
    if isinstance(module, nn.RNNBase):
        return MemberRNN(module)
    if type(module) is nn.Linear:
        return MemberLinear(module)
    return None
