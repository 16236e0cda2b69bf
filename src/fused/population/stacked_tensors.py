"""Tensors of several members in one, of which the members' own are views."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Tensors = TypeVar("Tensors", bound=Sequence[Tensor])


def rebind(tensor: Tensor, view: Tensor) -> None:
    """Let a member's tensor be a view of a stack; it keeps its identity, by which optimizers know it."""
    tensor.data = view


def select_members(members: Sequence[Tensors], rows: Tensor) -> list[Tensors]:
    """Return the tensors of the members that go on [M]; those of the others get memory of their own, as views of a stack
    would keep all of it.
    """
    staying = rows.tolist()
    for row, tensors in enumerate(members):
        if row not in staying:
            for tensor in tensors:
                rebind(tensor, tensor.detach().clone())
    return [members[row] for row in staying]


class Matrix:
    """The trainable parameters of all members, [K, P]: a row a member, so that an optimizer works on all of them at once.

    Args:
        names: of the parameters.
        members: the trainable parameters of each member, alike in shapes, kind of number and device.
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
        """Return tensors in the shapes of the parameters, of each member, as one [K, P]."""
        return torch.stack([torch.cat([tensor.detach().flatten() for tensor in row]) for row in rows])

    def split(self, matrix: Tensor) -> list[Tensor]:
        """Return the views [K, *shape] of a matrix [K, P], one a parameter."""
        parts = matrix.split(self.sizes, 1)
        return [
            part.unflatten(1, shape) if shape else part[:, 0] for part, shape in zip(parts, self.shapes, strict=True)
        ]

    def select(self, rows: Tensor) -> None:
        """Go on with these members [M]; what the others have stays theirs."""
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
    """Other tensors of the members, each [K, *shape]: buffers, and parameters that are not trained.

    Args:
        names: of the tensors.
        members: the tensors of each member, alike in shapes, kinds of number and device.
    """

    def __init__(self, names: Sequence[str], members: Sequence[list[Tensor]]) -> None:
        self.members = list(members)
        stacked = (torch.stack([tensor.detach() for tensor in tensors]) for tensors in zip(*members, strict=True))
        self.tensors = dict(zip(names, stacked, strict=True))
        self._bind()

    def select(self, rows: Tensor) -> None:
        """Go on with these members [M]; what the others have stays theirs."""
        self.members = select_members(self.members, rows)
        self.tensors = {name: tensor[rows] for name, tensor in self.tensors.items()}
        self._bind()

    def _bind(self) -> None:
        for row, own in enumerate(self.members):
            for tensor, stack in zip(own, self.tensors.values(), strict=True):
                rebind(tensor, stack[row])


def stacking_problem(models: Sequence[nn.Module]) -> str | None:
    """Say why the tensors of models cannot be stacked; None where they can."""
    first, tensors = models[0], _tensor_properties(models[0])
    for model in models[1:]:
        if type(model) is not type(first):
            return f"the models differ: {type(first).__name__} and {type(model).__name__}"
        own = _tensor_properties(model)
        if len(own) != len(tensors):
            return f"the models differ: one has {len(tensors)} parameters and buffers, another {len(own)}"
        for (name, properties), (_, others) in zip(tensors, own, strict=True):
            if properties != others:
                what = next(f"{one} and {two}" for one, two in zip(properties, others, strict=True) if one != two)
                return f"the models differ in {name}: {what}"
    kinds = {parameter.dtype for parameter in first.parameters() if parameter.requires_grad}
    if len(kinds) > 1:
        return f"the parameters have different kinds of number: {', '.join(sorted(map(str, kinds)))}"
    return None


def _tensor_properties(model: nn.Module) -> list[tuple[str, tuple[object, ...]]]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [(name, (tuple(t.shape), t.dtype, t.device, t.requires_grad)) for name, t in tensors]
