"""Tensors of several members in one, of which the members' own are views."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def rebind(tensor: Tensor, view: Tensor) -> None:
    """Let a member's tensor be a view of a stack; it keeps its identity, by which optimizers know it."""
    tensor.data = view


class Matrix:
    """The trainable parameters of all members, [K, P]: a row a member, so that an optimizer works on all of them at once.

    Args:
        members: the trainable parameters of each member by name, alike in names, shapes, kind of number and device.
    """

    def __init__(self, members: Sequence[dict[str, nn.Parameter]]) -> None:
        first = members[0]
        self.names = tuple(first)
        self.shapes = [parameter.shape for parameter in first.values()]
        self.sizes = [parameter.numel() for parameter in first.values()]
        self.members = [list(parameters.values()) for parameters in members]
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

    def keep(self, rows: Tensor) -> None:
        """Go on with these members [M]; what the others have stays theirs."""
        self.members = [self.members[row] for row in rows.tolist()]
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
        members: the tensors of each member by name, alike in names, shapes, kinds of number and device.
    """

    def __init__(self, members: Sequence[dict[str, Tensor]]) -> None:
        self.members = list(members)
        self.tensors = {name: torch.stack([own[name].detach() for own in members]) for name in members[0]}
        self._bind()

    def keep(self, rows: Tensor) -> None:
        """Go on with these members [M]; what the others have stays theirs."""
        self.members = [self.members[row] for row in rows.tolist()]
        self.tensors = {name: tensor[rows] for name, tensor in self.tensors.items()}
        self._bind()

    def _bind(self) -> None:
        for row, own in enumerate(self.members):
            for name, tensor in own.items():
                rebind(tensor, self.tensors[name][row])


def problem_of(models: Sequence[nn.Module]) -> str | None:
    """Say why the tensors of models cannot be stacked; None where they can."""
    first = models[0]
    like = {name: (t.shape, t.dtype, t.device, t.requires_grad) for name, t in _tensors(first).items()}
    for model in models[1:]:
        if type(model) is not type(first):
            return f"the models differ: {type(first).__name__} and {type(model).__name__}"
        own = {name: (t.shape, t.dtype, t.device, t.requires_grad) for name, t in _tensors(model).items()}
        for name in sorted(like.keys() | own.keys()):
            if like.get(name) != own.get(name):
                one, other = (tuple(facts[name][0]) if name in facts else "none" for facts in (like, own))
                return f"the models differ in {name}: {one} and {other}"
    kinds = {t.dtype for t in first.parameters() if t.requires_grad}
    if len(kinds) > 1:
        return f"the parameters have different kinds of number: {', '.join(sorted(map(str, kinds)))}"
    return None


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
