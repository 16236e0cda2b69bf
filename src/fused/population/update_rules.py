"""The formulas of the optimizers for all members at once, on matrices [K, P] with a row a member.

Each is that of the ordinary optimizer's class, with numbers [K, 1] of the members in place of its own.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer


@dataclass
class Now:
    """One step of all members.

    Args:
        theta: parameters [K, P], changed in place.
        g: gradients [K, P], which may be used up.
        state: what is remembered, each [K, P], or a number of a member [K, 1]; changed in place.
        t: number of this step of each member [K, 1], from 1, in float64.
        settings: of the parameter groups, in float64 [K, 1]; [K, P] where a member's groups differ. Without
            ``weight_decay`` where nothing decays.
        flags: settings that are true or false for all.
        first: [K, 1] True for members that remember nothing yet.
        scratch: matrices for passing results.
    """

    theta: Tensor
    g: Tensor
    state: Mapping[str, Tensor]
    t: Tensor
    settings: Mapping[str, Tensor]
    flags: Mapping[str, bool]
    first: Tensor
    scratch: list[Tensor]

    def __getitem__(self, setting: str) -> Tensor:
        return self.settings[setting]

    def cast(self, numbers: Tensor) -> Tensor:
        """Return numbers of the members in the parameters' precision."""
        return numbers.to(self.theta.dtype)

    def space(self, number: int = 0) -> Tensor:
        """Return a matrix [K, P] that holds nothing yet."""
        while len(self.scratch) <= number:
            self.scratch.append(torch.empty_like(self.theta))
        return self.scratch[number]

    def decay(self, decoupled: bool = False) -> None:
        """g ← g + λθ; decoupled, θ ← (1 - ηλ) θ."""
        if "weight_decay" not in self.settings:
            return
        if decoupled:
            self.theta.mul_(self.cast(1 - self["lr"] * self["weight_decay"]))
        else:
            self.g.addcmul_(self.theta, self.cast(self["weight_decay"]))

    def average(self, name: str, new: Tensor, beta: str) -> Tensor:
        """m ← βm + (1 - β) x; returns m."""
        return self.state[name].lerp_(new, self.cast(1 - self[beta]))

    def unbias(self, beta: str) -> Tensor:
        """Return 1 - β^t."""
        return 1 - self[beta] ** self.t

    def go(self, direction: Tensor, rate: Tensor) -> None:
        """θ ← θ - rate · direction."""
        self.theta.addcmul_(direction, self.cast(-rate))

    def go_divided(self, direction: Tensor, divisor: Tensor, rate: Tensor) -> None:
        """θ ← θ - rate · direction / divisor."""
        scaled = torch.mul(direction, self.cast(-rate), out=self.space(1))
        self.theta.addcdiv_(scaled, divisor)

    def root(self, square: Tensor, epsilon: Tensor) -> Tensor:
        """Return √x + ε."""
        return torch.sqrt(square, out=self.space()).add_(self.cast(epsilon))


# ---- the formulas ----------------------------------------------------------------------------------------------


def _sgd(now: Now) -> None:
    now.decay()
    direction = now.g
    if "momentum_buffer" in now.state:
        velocity, momentum = now.state["momentum_buffer"], now["momentum"]
        share = torch.where(now.first | (momentum == 0), 1, 1 - now["dampening"])
        velocity.mul_(now.cast(momentum)).addcmul_(now.g, now.cast(share))
        direction = now.g.addcmul_(velocity, now.cast(momentum)) if now.flags["nesterov"] else velocity
    now.go(direction, now["lr"])


def _largest(now: Now, square: Tensor) -> Tensor:
    """Return the largest averages of squares so far (AMSGrad)."""
    largest = now.state["max_exp_avg_sq"]
    return torch.maximum(largest, square, out=largest)


def _adam(now: Now) -> None:
    now.decay(decoupled=now.flags["decoupled_weight_decay"])
    mean = now.average("exp_avg", now.g, "beta1")
    square = now.average("exp_avg_sq", now.g.square_(), "beta2")
    if now.flags["amsgrad"]:
        square = _largest(now, square)
    unbias = now.unbias("beta2").sqrt()
    now.go_divided(mean, now.root(square, now["eps"] * unbias), now["lr"] * unbias / now.unbias("beta1"))


def _adamax(now: Now) -> None:
    now.decay()
    mean = now.average("exp_avg", now.g, "beta1")
    largest = now.state["exp_inf"].mul_(now.cast(now["beta2"]))
    torch.maximum(largest, now.g.abs_().add_(now.cast(now["eps"])), out=largest)
    now.go_divided(mean, largest, now["lr"] / now.unbias("beta1"))


def _nadam(now: Now) -> None:
    now.decay(decoupled=now.flags["decoupled_weight_decay"])
    mu, mu_next = (now["beta1"] * (1 - 0.5 * 0.96 ** (t * now["momentum_decay"])) for t in (now.t, now.t + 1))
    product = now.state["mu_product"]
    product.mul_(mu.to(product.dtype))
    so_far = product.to(mu.dtype)
    mean = now.average("exp_avg", now.g, "beta1")
    square = now.average("exp_avg_sq", torch.square(now.g, out=now.space()), "beta2")
    unbias = now.unbias("beta2").sqrt()
    divisor = now.root(square, now["eps"] * unbias)
    rate = now["lr"] * unbias
    now.go_divided(now.g, divisor, rate * (1 - mu) / (1 - so_far))
    now.go_divided(mean, divisor, rate * mu_next / (1 - so_far * mu_next))


def _radam(now: Now) -> None:
    now.decay(decoupled=now.flags["decoupled_weight_decay"])
    mean = now.average("exp_avg", now.g, "beta1")
    square = now.average("exp_avg_sq", now.g.square_(), "beta2")
    unbias, decayed = now.unbias("beta2"), now["beta2"] ** now.t
    end = 2 / (1 - now["beta2"]) - 1
    length = end - 2 * now.t * decayed / unbias
    trusted = length > 5
    rectified = ((length - 4) * (length - 2) * end / ((end - 4) * (end - 2) * length) * unbias).sqrt()
    divisor = now.root(square, now["eps"])
    divisor.masked_fill_(~trusted, 1)
    now.go_divided(mean, divisor, now["lr"] / now.unbias("beta1") * torch.where(trusted, rectified, 1))


def _adagrad(now: Now) -> None:
    now.decay()
    total = now.state["sum"].addcmul_(now.g, now.g)
    now.go_divided(now.g, now.root(total, now["eps"]), now["lr"] / (1 + (now.t - 1) * now["lr_decay"]))


def _adadelta(now: Now) -> None:
    now.decay()
    square = now.average("square_avg", torch.square(now.g, out=now.space()), "rho")
    epsilon = now.cast(now["eps"])
    root = torch.add(square, epsilon, out=now.space()).sqrt_()
    change = torch.add(now.state["acc_delta"], epsilon, out=now.space(1)).sqrt_().div_(root).mul_(now.g)
    now.average("acc_delta", torch.square(change, out=now.g), "rho")
    now.go(change, now["lr"])


def _rmsprop(now: Now) -> None:
    now.decay()
    square = now.average("square_avg", torch.square(now.g, out=now.space()), "alpha")
    if now.flags["centered"]:
        mean = now.average("grad_avg", now.g, "alpha")
        square = torch.addcmul(square, mean, mean, value=-1, out=now.space())
    divisor = now.root(square, now["eps"])
    if "momentum_buffer" in now.state:
        velocity = now.state["momentum_buffer"].mul_(now.cast(now["momentum"]))
        now.go(velocity.addcdiv_(now.g, divisor), now["lr"])
    else:
        now.go_divided(now.g, divisor, now["lr"])


def _adabound(now: Now) -> None:
    now.decay(decoupled=now.flags["weight_decouple"])
    mean = now.average("exp_avg", now.g, "beta1")
    square = now.average("exp_avg_sq", now.g.square_(), "beta2")
    if now.flags["ams_bound"]:
        square = _largest(now, square)
    base = now["base_lr"]
    final = torch.where(base > 0, now["final_lr"] * now["lr"] / base, 0)
    divisor = torch.add(square, 1e-15, out=now.space()).sqrt_().add_(now.cast(now["eps"]))
    rate = now["lr"] * now.unbias("beta2").sqrt() / now.unbias("beta1")
    rates = torch.div(now.cast(rate), divisor, out=divisor)
    closing = now["gamma"] * now.t
    torch.maximum(rates, now.cast(final * (1 - 1 / (closing + 1))), out=rates)
    torch.minimum(rates, now.cast(final * (1 + 1 / closing)), out=rates)
    now.theta.addcmul_(rates, mean, value=-1)


def _lion(now: Now) -> None:
    now.decay(decoupled=now.flags["weight_decouple"])
    direction = torch.lerp(now.state["exp_avg"], now.g, now.cast(1 - now["beta1"]), out=now.space()).sign_()
    now.average("exp_avg", now.g, "beta2")
    now.go(direction, now["lr"])


def _textbook_momentum(now: Now) -> None:
    now.decay()
    lr, momentum = now.cast(now["lr"]), now.cast(now["momentum"])
    velocity = now.state["velocity"].mul_(momentum).addcmul_(now.g, lr)
    if now.flags["nesterov"]:
        now.theta.addcmul_(velocity, -momentum).addcmul_(now.g, -lr)
    else:
        now.theta.sub_(velocity)


def _textbook_adagrad(now: Now) -> None:
    now.decay()
    squares = now.state["squares"].addcmul_(now.g, now.g)
    now.go_divided(now.g, torch.add(squares, now.cast(now["eps"]), out=now.space()).sqrt_(), now["lr"])


def _textbook_rmsprop(now: Now) -> None:
    now.decay()
    mean = now.average("mean", torch.square(now.g, out=now.space()), "alpha")
    now.go_divided(now.g, torch.add(mean, now.cast(now["eps"]), out=now.space()).sqrt_(), now["lr"])


# ---- whose they are --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """How an optimizer is done for all members.

    Args:
        formula: one step.
        settings: the numbers in its parameter groups; ``betas`` are ``beta1`` and ``beta2`` to the formula.
        remembers: tensors in its state that are shaped as a parameter, each with the setting or flag without which it is
            not kept, or with ``""``.
        numbers: numbers in its state of each parameter, with their first values.
        flags: settings that must be the same for all members.
        counts: it counts steps in its parameter groups.
        compares: it compares with its first learning rates, ``base_lrs``, which are ``base_lr`` to the formula.
    """

    formula: Callable[[Now], None]
    settings: tuple[str, ...]
    remembers: Mapping[str, str]
    numbers: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    counts: bool = False
    compares: bool = False


_STEP = {"step": 0.0}
_MOMENTS = {"exp_avg": "", "exp_avg_sq": ""}
_ADAM = ("lr", "betas", "eps", "weight_decay")

RULES: dict[str, Rule] = {
    "torch.optim.SGD": Rule(
        _sgd, ("lr", "momentum", "dampening", "weight_decay"), {"momentum_buffer": "momentum"}, flags=("nesterov",)
    ),
    "torch.optim.Adam": Rule(
        _adam, _ADAM, {**_MOMENTS, "max_exp_avg_sq": "amsgrad"}, _STEP, flags=("amsgrad", "decoupled_weight_decay")
    ),
    "torch.optim.Adamax": Rule(_adamax, _ADAM, {"exp_avg": "", "exp_inf": ""}, _STEP),
    "torch.optim.NAdam": Rule(
        _nadam, (*_ADAM, "momentum_decay"), _MOMENTS, {**_STEP, "mu_product": 1.0}, flags=("decoupled_weight_decay",)
    ),
    "torch.optim.RAdam": Rule(_radam, _ADAM, _MOMENTS, _STEP, flags=("decoupled_weight_decay",)),
    "torch.optim.Adagrad": Rule(_adagrad, ("lr", "lr_decay", "eps", "weight_decay"), {"sum": ""}, _STEP),
    "torch.optim.Adadelta": Rule(
        _adadelta, ("lr", "rho", "eps", "weight_decay"), {"square_avg": "", "acc_delta": ""}, _STEP
    ),
    "torch.optim.RMSprop": Rule(
        _rmsprop,
        ("lr", "alpha", "eps", "momentum", "weight_decay"),
        {"square_avg": "", "momentum_buffer": "momentum", "grad_avg": "centered"},
        _STEP,
        flags=("centered",),
    ),
    "pytorch_optimizer.AdaBound": Rule(
        _adabound,
        (*_ADAM, "final_lr", "gamma"),
        {**_MOMENTS, "max_exp_avg_sq": "ams_bound"},
        flags=("ams_bound", "weight_decouple"),
        counts=True,
        compares=True,
    ),
    "pytorch_optimizer.Lion": Rule(
        _lion, ("lr", "betas", "weight_decay"), {"exp_avg": ""}, flags=("weight_decouple",), counts=True
    ),
    "src.optim.textbook.Momentum": Rule(
        _textbook_momentum, ("lr", "momentum", "weight_decay"), {"velocity": ""}, flags=("nesterov",)
    ),
    "src.optim.textbook.Adagrad": Rule(_textbook_adagrad, ("lr", "eps", "weight_decay"), {"squares": ""}),
    "src.optim.textbook.RMSprop": Rule(_textbook_rmsprop, ("lr", "alpha", "eps", "weight_decay"), {"mean": ""}),
}
RULES["torch.optim.AdamW"] = RULES["torch.optim.Adam"]
"""By the names of the classes, as a config has them: to import pytorch_optimizer takes half a second."""


def rule_of(kind: type[Optimizer]) -> Rule | None:
    """Return how optimizers of a class are done for all members; None where it is not known."""
    for target, rule in RULES.items():
        module, _, name = target.rpartition(".")
        if getattr(sys.modules.get(module), name, None) is kind:
            return rule
    return None


KERNELS = ("foreach", "fused")
"""Settings that say how torch computes a formula, not which."""


def optimizer_problem(optimizers: Sequence[Optimizer]) -> str | None:
    """Say why optimizers cannot be done as one; None where they can."""
    first = optimizers[0]
    for optimizer in optimizers:
        if type(optimizer) is not type(first):
            return f"the optimizers differ: {type(first).__name__} and {type(optimizer).__name__}"
    rule = rule_of(type(first))
    if rule is None:
        return f"{type(first).__name__} has no formula for several members in src/fused/population/update_rules.py"
    flags = {flag: first.param_groups[0][flag] for flag in rule.flags}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for key, value in group.items():
                if key in flags and value != flags[key]:
                    return f"the optimizers differ in {key}: {flags[key]} and {value}"
                if value is True and key not in flags and key not in KERNELS:
                    return f"{type(first).__name__} has no formula for several members with {key}"
    return None
