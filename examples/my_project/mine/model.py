from torch import Tensor, nn

from src.core.data_spec import DataSpec
from src.models.base import Model


class Highway(Model):
    """A perceptron whose gated layers can pass their input on unchanged (Srivastava, Greff and Schmidhuber, 2015)."""

    tasks = ("classification", "binary_classification", "regression")
    inputs = ("vector", "image")

    def __init__(self, spec: DataSpec, width: int = 32, num_layers: int = 3, dropout: float = 0.0, **common) -> None:
        super().__init__(spec, **common)
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(self.spec.input_size, width))
        self.layers = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(num_layers))
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(width, self.spec.output_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [B, *input_shape] to outputs [B, *output_shape]."""
        h = self.first(x)
        for layer in self.layers:
            candidate, gate = layer(h).chunk(2, dim=-1)
            gate = gate.sigmoid()
            h = gate * self.dropout(candidate.tanh()) + (1 - gate) * h
        return self.last(h).reshape(x.shape[0], *self.spec.output_shape)
