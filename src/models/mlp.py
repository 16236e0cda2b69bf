"""Multi-layer perceptron (textbook, Multi-Layer Perceptrons)."""

from collections.abc import Sequence

from torch import Tensor, nn

from src.layers.activations import activation as make_activation
from src.layers.drop import DropConnect
from src.layers.initialization import initialize
from src.models.base import Model
from src.spec import DataSpec


class MLP(Model):
    """Fully connected layers with an activation after each but the last.

    Args:
        spec: the data; inputs of any shape are flattened.
        hidden_sizes: width of each hidden layer; an empty list makes a linear model.
        activation: a name from `src.layers.activations`; tanh is the textbook's.
        initialization: a name from `src.layers.initialization`.
        batch_norm: normalise over the batch before each activation.
        dropout: probability to drop a hidden unit.
        drop_connect: probability to drop a weight of a hidden layer.
    """

    tasks = ("classification", "binary_classification", "regression", "forecasting")
    inputs = ("vector", "image", "sequence")

    def __init__(
        self,
        spec: DataSpec,
        hidden_sizes: Sequence[int] = (128, 64),
        activation: str = "tanh",
        initialization: str = "torch",
        batch_norm: bool = False,
        dropout: float = 0.0,
        drop_connect: float = 0.0,
    ) -> None:
        super().__init__(spec)
        layers: list[nn.Module] = [nn.Flatten()]
        width = self.spec.input_size
        for hidden in hidden_sizes:
            layers.append(DropConnect(width, hidden, drop_connect) if drop_connect else nn.Linear(width, hidden))
            if batch_norm:
                layers.append(nn.BatchNorm1d(hidden))
            layers.append(make_activation(activation))
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = hidden
        layers.append(nn.Linear(width, self.spec.output_size))
        self.layers = nn.Sequential(*layers)
        initialize(self, initialization)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [B, *input_shape] to outputs [B, *output_shape]."""
        return self.layers(x).reshape(x.size(0), *self.spec.output_shape)
