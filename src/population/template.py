"""The network that all members share while they are trained as one: it has no tensors of its own."""

import copy
from collections.abc import Sequence

from torch import Tensor

from src.models.base import Model


class Template:
    """A model of the members' shape, whose rates of dropping are tensors.

    Args:
        models: the members.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self._network = shell(models[0])
        self.rates: dict[str, Tensor] = {}

    def keep(self, rows: Tensor) -> None:
        """Go on with these members [M]."""
        self.rates = {name: rate[rows] for name, rate in self.rates.items()}

    def training(self, mode: bool) -> Model:
        """Return the network, training or evaluating."""
        if self._network.training is not mode:
            self._network.train(mode)
        return self._network


def shell(model: Model) -> Model:
    """Return a copy of a model that shares its tensors, and in which modules can be replaced."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, dict(tensors))
