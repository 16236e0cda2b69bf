"""Optimizers in the textbook's form, where torch's form differs (errata E8 and E9)."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class TextbookOptimizer(Optimizer):
    """θ ← θ - Δ, where a subclass computes Δ; λ is coupled, g = ∇L + λθ.

    Args:
        params: parameters or parameter groups.
        settings: defaults of every group, with ``lr`` and ``weight_decay``.
    """

    def __init__(self, params: Any, **settings: float) -> None:
        super().__init__(params, settings)

    @abstractmethod
    def compute_update(self, g: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        """Return Δ.

        Args:
            g: the gradient, in the parameter's shape.
            state: the optimizer state of the parameter; empty at its first step.
            group: the settings of its parameter group.
        """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Perform one step, and return the result of the closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for theta in group["params"]:
                if theta.grad is not None:
                    g = theta.grad.add(theta, alpha=group["weight_decay"])
                    theta.sub_(self.compute_update(g, self.state[theta], group))
        return loss


def _state_tensor(state: dict[str, Tensor], name: str, g: Tensor) -> Tensor:
    """Return a tensor of a parameter's state, zero at its first step."""
    if name not in state:
        state[name] = torch.zeros_like(g)
    return state[name]


class Momentum(TextbookOptimizer):
    """v ← γv + ηg, θ ← θ - v (textbook, SGD with Momentum). torch's v ← γv + g, θ ← θ - ηv is the same while η is
    constant; if a schedule changes η, the velocity here keeps the rates of its past gradients (erratum E9).

    Args:
        params: parameters or parameter groups.
        lr: η.
        momentum: γ.
        nesterov: take the gradient at the lookahead point θ - γv, which is stored in place of θ: θ ← θ - (γv + ηg).
        weight_decay: λ.
    """

    def __init__(
        self, params: Any, lr: float, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)

    def compute_update(self, g: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        velocity = _state_tensor(state, "velocity", g)
        velocity.mul_(group["momentum"]).add_(g, alpha=group["lr"])
        return (group["momentum"] * velocity).add_(g, alpha=group["lr"]) if group["nesterov"] else velocity


class Adagrad(TextbookOptimizer):
    """G ← G + g², θ ← θ - η·g/√(G + ε) (textbook, AdaGrad). torch uses √G + ε (erratum E8).

    Args:
        params: parameters or parameter groups.
        lr: η.
        eps: ε, added to squared gradients.
        weight_decay: λ.
    """

    def __init__(self, params: Any, lr: float, eps: float = 1e-8, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, eps=eps, weight_decay=weight_decay)

    def compute_update(self, g: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        squares = _state_tensor(state, "squares", g)
        squares.addcmul_(g, g)
        return group["lr"] * g / (squares + group["eps"]).sqrt()


class RMSprop(TextbookOptimizer):
    """v ← ρv + (1-ρ)g², θ ← θ - η·g/√(v + ε) (textbook, RMSProp). torch uses √v + ε (erratum E8).

    Args:
        params: parameters or parameter groups.
        lr: η.
        alpha: ρ.
        eps: ε, added to squared gradients.
        weight_decay: λ.
    """

    def __init__(
        self, params: Any, lr: float, alpha: float = 0.9, eps: float = 1e-8, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay)

    def compute_update(self, g: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        mean = _state_tensor(state, "mean", g)
        mean.mul_(group["alpha"]).addcmul_(g, g, value=1 - group["alpha"])
        return group["lr"] * g / (mean + group["eps"]).sqrt()
