"""Stacked tensors of several members; the members' own tensors are views of them."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Tensors = TypeVar("Tensors", bound=Sequence[Tensor])


def rebind(tensor: Tensor, view: Tensor) -> None:
    """Make a tensor of a member a view of a stack; it stays the same object, by which optimizers identify it."""
    tensor.data = view


def select_members(members: Sequence[Tensors], rows: Tensor) -> list[Tensors]:
    """Return the tensors of the members in these rows [M].

    The tensors of all others are copied, because a view would keep the whole stack in memory.
    """
    selected = rows.tolist()
    for row, tensors in enumerate(members):
        if row not in selected:
            for tensor in tensors:
                rebind(tensor, tensor.detach().clone())
    return [members[row] for row in selected]


class Matrix:
    """The trainable parameters of all members as one matrix [K, P] with a row per member.

    Args:
        names: names of the parameters.
        members: the trainable parameters of each member, with equal shapes, dtypes and devices.
    """

    def __init__(self, names: Sequence[str], members: Sequence[list[nn.Parameter]]) -> None:
        self.names = names
        self.shapes = [parameter.shape for parameter in members[0]]
        self.sizes = [parameter.numel() for parameter in members[0]]
        self.members = list(members)
        self.theta = self.gather(self.members)
        self.g = torch.zeros_like(self.theta)
        self.gradients = self.split(self.g)
        self._bind()

    def gather(self, rows: Sequence[Sequence[Tensor]]) -> Tensor:
        """Return tensors of each member, in the shapes of its parameters, as one matrix [K, P]."""
        return torch.stack([torch.cat([tensor.detach().flatten() for tensor in row]) for row in rows])

    def split(self, matrix: Tensor) -> list[Tensor]:
        """Return views [K, *shape] of a matrix [K, P], one per parameter."""
        parts = matrix.split(self.sizes, 1)
        return [
            part.unflatten(1, shape) if shape else part[:, 0] for part, shape in zip(parts, self.shapes, strict=True)
        ]

    def select(self, rows: Tensor) -> None:
        """Continue with the members of these rows [M] only; all others keep copies of their tensors."""
        self.members = select_members(self.members, rows)
        self.theta, self.g = self.theta[rows], self.g[rows]
        self.gradients = self.split(self.g)
        self._bind()

    def _bind(self) -> None:
        views = self.split(self.theta)
        for row, parameters in enumerate(self.members):
            for parameter, view in zip(parameters, views, strict=True):
                rebind(parameter, view[row])
        self.leaves = {name: view.detach().requires_grad_() for name, view in zip(self.names, views, strict=True)}


class Stack:
    """Other tensors of the members, each [K, *shape]: buffers and frozen parameters.

    Args:
        names: names of the tensors.
        members: the tensors of each member, with equal shapes, dtypes and devices.
    """

    def __init__(self, names: Sequence[str], members: Sequence[list[Tensor]]) -> None:
        self.members = list(members)
        stacked = (torch.stack([tensor.detach() for tensor in tensors]) for tensors in zip(*members, strict=True))
        self.tensors = dict(zip(names, stacked, strict=True))
        self._bind()

    def select(self, rows: Tensor) -> None:
        """Continue with the members of these rows [M] only; all others keep copies of their tensors."""
        self.members = select_members(self.members, rows)
        self.tensors = {name: tensor[rows] for name, tensor in self.tensors.items()}
        self._bind()

    def _bind(self) -> None:
        for row, tensors in enumerate(self.members):
            for tensor, stack in zip(tensors, self.tensors.values(), strict=True):
                rebind(tensor, stack[row])


def stacking_problem(models: Sequence[nn.Module]) -> str | None:
    """Return why the tensors of models cannot be stacked; None if they can."""
    first, first_tensors = models[0], _tensor_properties(models[0])
    for model in models[1:]:
        if type(model) is not type(first):
            return f"the models differ: {type(first).__name__} and {type(model).__name__}"
        tensors = _tensor_properties(model)
        if len(tensors) != len(first_tensors):
            return f"the models differ: one has {len(first_tensors)} parameters and buffers, another {len(tensors)}"
        for (name, properties), (_, other_properties) in zip(first_tensors, tensors, strict=True):
            if properties != other_properties:
                pairs = zip(properties, other_properties, strict=True)
                difference = next(f"{one} and {two}" for one, two in pairs if one != two)
                return f"the models differ in {name}: {difference}"
    dtypes = {parameter.dtype for parameter in first.parameters() if parameter.requires_grad}
    if len(dtypes) > 1:
        return f"the parameters have different dtypes: {', '.join(sorted(map(str, dtypes)))}"
    return None


def _tensor_properties(model: nn.Module) -> list[tuple[str, tuple[object, ...]]]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [(name, (tuple(t.shape), t.dtype, t.device, t.requires_grad)) for name, t in tensors]
