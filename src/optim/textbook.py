"""Optimizers in the textbook's form, where torch's differs (errata E8 and E9)."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Textbook(Optimizer):
    """θ ← θ - Δ, where a subclass says what Δ is; λ is coupled, g = ∇L + λθ.

    Args:
        params: parameters or parameter groups.
        settings: defaults of every group, with ``lr`` and ``weight_decay``.
    """

    def __init__(self, params: Any, **settings: float) -> None:
        super().__init__(params, settings)

    @abstractmethod
    def change(self, g: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        """Return Δ.

        Args:
            g: the gradient, in the parameter's shape.
            state: what the parameter remembers; empty at its first step.
            group: the settings.
        """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step; returns what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for theta in group["params"]:
                if theta.grad is not None:
                    g = theta.grad.add(theta, alpha=group["weight_decay"])
                    theta.sub_(self.change(g, self.state[theta], group))
        return loss


def _memory(state: dict[str, Tensor], name: str, g: Tensor) -> Tensor:
    """Return what a parameter remembers, zero at its first step."""
    if name not in state:
        state[name] = torch.zeros_like(g)
    return state[name]


class Momentum(Textbook):
    """v ← γv + ηg, θ ← θ - v (textbook, SGD with Momentum). torch's v ← γv + g, θ ← θ - ηv is the same while η is
    constant; where a schedule moves η, here the velocity keeps the rates that its gradients came with (erratum E9).

    Args:
        params: parameters or parameter groups.
        lr: η.
        momentum: γ.
        nesterov: take the gradient ahead, at θ - γv: what is kept in place of θ is that point, θ ← θ - (γv + ηg).
        weight_decay: λ.
    """

    def __init__(
        self, params: Any, lr: float, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)

    def change(self, g: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        velocity = _memory(state, "velocity", g)
        velocity.mul_(group["momentum"]).add_(g, alpha=group["lr"])
        return (group["momentum"] * velocity).add_(g, alpha=group["lr"]) if group["nesterov"] else velocity


class Adagrad(Textbook):
    """G ← G + g², θ ← θ - η·g/√(G + ε) (textbook, AdaGrad). torch has √G + ε (erratum E8).

    Args:
        params: parameters or parameter groups.
        lr: η.
        eps: ε, compared with squared gradients.
        weight_decay: λ.
    """

    def __init__(self, params: Any, lr: float, eps: float = 1e-8, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, eps=eps, weight_decay=weight_decay)

    def change(self, g: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        squares = _memory(state, "squares", g)
        squares.addcmul_(g, g)
        return group["lr"] * g / (squares + group["eps"]).sqrt()


class RMSprop(Textbook):
    """v ← ρv + (1-ρ)g², θ ← θ - η·g/√(v + ε) (textbook, RMSProp). torch has √v + ε (erratum E8).

    Args:
        params: parameters or parameter groups.
        lr: η.
        alpha: ρ.
        eps: ε, compared with squared gradients.
        weight_decay: λ.
    """

    def __init__(
        self, params: Any, lr: float, alpha: float = 0.9, eps: float = 1e-8, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay)

    def change(self, g: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        mean = _memory(state, "mean", g)
        mean.mul_(group["alpha"]).addcmul_(g, g, value=1 - group["alpha"])
        return group["lr"] * g / (mean + group["eps"]).sqrt()
