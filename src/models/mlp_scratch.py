"""The multi-layer perceptron from scratch: the textbook's explicit forward and backward pass.

The names are the textbook's (Multi-Layer Perceptrons, The Forward Pass and Backpropagation): layer l of L has the weights
W[l] [n_in, n_out] and the bias b[l] [n_out], its pre-activation is Z[l] [m, n_out] and its activation A[l] [m, n_out], with
A[0] = X [m, n_in] the batch of m inputs. dZ[l] is ∂J/∂Z[l], and so on.

torch calls the two passes through `torch.autograd.Function`: autograd does not differentiate the network or the loss, and
everything around them (optimizers, clipping, accumulation, mixing, several devices) works as for any model.
"""
# ruff: noqa: E741 (l is the textbook's letter for a layer)

from collections.abc import Callable, Sequence
from math import pi, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from src.core.data_spec import DataSpec
from src.layers.activations import activation as make_activation
from src.layers.initialization import initialize
from src.models.base import Model
from src.tasks.base import Task

# ---- derivatives ---------------------------------------------------------------------------------------------------

ACTIVATION_DERIVATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": lambda Z, A: 1 - A**2,
    "sigmoid": lambda Z, A: A * (1 - A),
    "relu": lambda Z, A: (Z > 0).to(Z.dtype),
    "leaky_relu": lambda Z, A: torch.where(Z > 0, torch.ones_like(Z), 0.01),
    "elu": lambda Z, A: torch.where(Z > 0, 1.0, A + 1),
    "silu": lambda Z, A: Z.sigmoid() * (1 + Z * (1 - Z.sigmoid())),
    "gelu": lambda Z, A: (1 + torch.erf(Z / sqrt(2))) / 2 + Z * torch.exp(-(Z**2) / 2) / sqrt(2 * pi),
}
"""g'(Z) of each activation A = g(Z)."""


def softmax_cross_entropy(Z: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """∂L/∂Z = P - Y, with P = softmax(Z) [m, C] and Y the one-hot classes y [m], smoothed if smoothing is above 0."""
    classes = Z.size(-1)
    Y = (1 - smoothing) * F.one_hot(y, classes).to(Z.dtype) + smoothing / classes
    return Z.softmax(-1) - Y


def binary_cross_entropy(Z: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """∂L/∂Z = (A - y) / (A (1 - A)) · σ'(Z) = A - y, with A = σ(Z) [m]."""
    return Z.sigmoid() - ((1 - smoothing) * y + smoothing / 2)


def squared_error(Z: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """∂L/∂Z = 2/K (Z - y), for the mean of K squared errors of an example."""
    return 2 / Z[0].numel() * (Z - y)


LOSS_DERIVATIVES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "classification": softmax_cross_entropy,
    "binary_classification": binary_cross_entropy,
    "regression": squared_error,
    "forecasting": squared_error,
}
"""∂L/∂Z of the loss of each example, by task."""


# ---- the two passes ------------------------------------------------------------------------------------------------


class Dense(nn.Linear):
    """Z = A W + b. W is stored transposed, as in torch, so that checkpoints are interchangeable with `model=mlp`."""

    def forward(self, A: Tensor) -> Tensor:
        return A @ self.weight.T + self.bias


Layers = dict[int, Tensor]
"""A tensor for each layer l, counted from 1 as in the textbook."""


def forward_pass(X: Tensor, dense: Sequence[Dense], activations: Sequence[nn.Module]) -> tuple[Layers, Layers]:
    """Return Z[1] … Z[L] and A[0] … A[L-1]; the output is Z[L], whose softmax or sigmoid belongs to the loss.

    Args:
        X: inputs [m, n_in].
        dense: the L linear maps.
        activations: g of each of the L - 1 hidden layers.
    """
    Z: Layers = {}
    A: Layers = {0: X}
    for l, linear in enumerate(dense, 1):
        Z[l] = linear(A[l - 1])
        if l < len(dense):
            A[l] = activations[l - 1](Z[l])
    return Z, A


def backward_pass(
    dZ_output: Tensor, Z: Layers, A: Layers, W: Layers, derivative: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Layers, Layers, Layers]:
    """Return dW, db and dZ of every layer.

    Args:
        dZ_output: dZ[L] [m, n_out].
        Z, A: what the forward pass returned.
        W: weights [n_in, n_out] of each layer.
        derivative: g' of the hidden layers, a function of Z and A.
    """
    dZ: Layers = {len(W): dZ_output}
    dW: Layers = {}
    db: Layers = {}
    for l in range(len(W), 0, -1):
        dW[l] = A[l - 1].T @ dZ[l]
        db[l] = dZ[l].sum(0)
        if l > 1:
            dA = dZ[l] @ W[l].T
            dZ[l - 1] = dA * derivative(Z[l - 1], A[l - 1])
    return dW, db, dZ


class _Network(Function):
    """Z[L] as a function of X and all parameters, with `backward_pass` as its derivative."""

    @staticmethod
    def forward(ctx: Any, model: "MlpScratch", X: Tensor, *parameters: Tensor) -> Tensor:
        Z, A = forward_pass(X, model.dense, model.activations)
        L = ctx.depth = len(Z)
        ctx.derivative = model.derivative
        ctx.save_for_backward(*(Z[l] for l in range(1, L)), *(A[l] for l in range(L)), *parameters[::2])
        return Z[L]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dZ_output: Tensor) -> tuple[Tensor | None, ...]:
        L, saved = ctx.depth, ctx.saved_tensors
        Z = dict(enumerate(saved[: L - 1], 1))
        A = dict(enumerate(saved[L - 1 : 2 * L - 1]))
        W = dict(enumerate((weight.T for weight in saved[2 * L - 1 :]), 1))
        dW, db, dZ = backward_pass(dZ_output, Z, A, W, ctx.derivative)
        dX = dZ[1] @ W[1].T if ctx.needs_input_grad[1] else None
        return None, dX, *(gradient for l in W for gradient in (dW[l].T, db[l]))


class _Losses(Function):
    """The loss of each example [m] as a function of the outputs, with `LOSS_DERIVATIVES` as its derivative.

    The training step takes the mean, so that `backward` receives ∂J/∂L = 1/m, the textbook's first factor.
    """

    @staticmethod
    def forward(ctx: Any, task: Task, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        ctx.save_for_backward(LOSS_DERIVATIVES[task.name](outputs, targets, smoothing))
        return task.losses(outputs, targets, smoothing)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dL: Tensor) -> tuple[Tensor | None, ...]:
        (dZ,) = ctx.saved_tensors
        return None, dL.reshape(-1, *[1] * (dZ.dim() - 1)) * dZ, None, None


# ---- the model -----------------------------------------------------------------------------------------------------


class MlpScratch(Model):
    """The multi-layer perceptron of `model=mlp`, with its gradients computed by `backward_pass` (textbook M3).

    The parameters have the names, the shapes and, with the same seed, the values of `src.models.mlp.MLP`.

    Args:
        spec: the data; inputs of any shape are flattened.
        hidden_sizes: width of each hidden layer; an empty list makes a linear model.
        activation: a name from `src.layers.activations`; tanh is the textbook's.
        initialization: a name from `src.layers.initialization`.
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
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        layers: list[nn.Module] = [nn.Flatten()]
        width = self.spec.input_size
        for hidden in hidden_sizes:
            layers += [Dense(width, hidden), make_activation(activation)]
            width = hidden
        layers.append(Dense(width, self.spec.output_size))
        self.layers = nn.Sequential(*layers)
        self.derivative = ACTIVATION_DERIVATIVES[activation]
        initialize(self, initialization)

    @property
    def dense(self) -> list[Dense]:
        return [layer for layer in self.layers if isinstance(layer, Dense)]

    @property
    def activations(self) -> list[nn.Module]:
        return list(self.layers)[2::2]

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [B, *input_shape] to outputs [B, *output_shape]."""
        outputs = _Network.apply(self, self.layers[0](x), *self.layers.parameters())
        return outputs.reshape(x.size(0), *self.spec.output_shape)

    def losses(self, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        return _Losses.apply(self.task, outputs, targets, smoothing)
