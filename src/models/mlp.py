"""Multi-layer perceptron (textbook, Multi-Layer Perceptrons)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.layers.activations import activation as make_activation
from src.layers.dropout import DropConnect
from src.layers.initialization import initialize
from src.models.base import Model


class MLP(Model):
    """Fully connected layers with an activation after each one except the last.

    Args:
        spec: the data; inputs of any shape are flattened.
        hidden_sizes: width of each hidden layer; an empty list makes a linear model.
        activation: a name from `src.layers.activations`; tanh is the textbook's.
        initialization: a name from `src.layers.initialization`.
        batch_norm: normalise over the batch before each activation.
        dropout: probability to drop a hidden unit.
        drop_connect: probability to drop a weight of a hidden layer.
        series: ``together``, or ``independent``: forecast each of several series from its own past alone, all with the same
            weights (channel independence; Zeng et al. 2023, Nie et al. 2023).
        subtract_last: subtract the last value of the window from the inputs and add it to the forecast (NLinear, Zeng et al.
            2023, "Are Transformers Effective for Time Series Forecasting?"), so that a drifting level has no effect.

    Raises:
        UserError: if series or subtract_last is set and the predicted series are not the input series.
        common: arguments of `Model`.
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
        series: str = "together",
        subtract_last: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        self.channel_independent, self.subtract_last = series == "independent", subtract_last
        if (self.channel_independent or subtract_last) and self.spec.input_shape[1:] != self.spec.output_shape[1:]:
            option = "series=independent" if self.channel_independent else "subtract_last=true"
            raise UserError(
                f"model.{option}: the predicted series must be the input series; these data have "
                f"{self.spec.input_shape[-1]} input series and {self.spec.output_shape[-1]} predicted ones"
            )
        layers: list[nn.Module] = [nn.Flatten()]
        width = self.spec.input_shape[0] if self.channel_independent else self.spec.input_size
        for hidden in hidden_sizes:
            layers.append(DropConnect(width, hidden, drop_connect) if drop_connect else nn.Linear(width, hidden))
            if batch_norm:
                layers.append(nn.BatchNorm1d(hidden))
            layers.append(make_activation(activation))
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = hidden
        layers.append(
            nn.Linear(width, self.spec.output_shape[0] if self.channel_independent else self.spec.output_size)
        )
        self.layers = nn.Sequential(*layers)
        initialize(self, initialization)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [B, *input_shape] to outputs [B, *output_shape]."""
        if self.subtract_last:
            last = x[:, -1:]
            return self._outputs(x - last) + last
        return self._outputs(x)

    def _outputs(self, x: Tensor) -> Tensor:
        if self.channel_independent:
            forecasts = self.layers(x.transpose(1, 2).flatten(0, 1))  # [B·F, horizon]
            return forecasts.reshape(x.size(0), x.size(2), -1).transpose(1, 2)
        return self.layers(x).reshape(x.size(0), *self.spec.output_shape)
