"""Update rules of the optimizers for all members at once, on matrices [K, P] with a row per member.

Each is the rule of the optimizer's own class, with tensors [K, 1] of the members in place of its numbers.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer


@dataclass
class UpdateContext:
    """Inputs and state of one update of all members.

    Args:
        theta: parameters [K, P], changed in place.
        g: gradients [K, P], which the rule may overwrite.
        state: state of the optimizer, each a buffer [K, P] or a scalar of each member [K, 1]; changed in place.
        t: step number of each member [K, 1], from 1, in float64.
        settings: settings of the parameter groups, in float64 [K, 1], or [K, P] if the groups of a member differ;
            ``weight_decay`` only if it is above 0 anywhere.
        flags: boolean settings, the same for all members.
        is_new: [K, 1], True for members without optimizer state.
        scratch: matrices for intermediate results.
    """

    theta: Tensor
    g: Tensor
    state: Mapping[str, Tensor]
    t: Tensor
    settings: Mapping[str, Tensor]
    flags: Mapping[str, bool]
    is_new: Tensor
    scratch: list[Tensor]

    def __getitem__(self, setting: str) -> Tensor:
        return self.settings[setting]

    def cast(self, values: Tensor) -> Tensor:
        """Return values in the dtype of the parameters."""
        return values.to(self.theta.dtype)

    def workspace(self, index: int = 0) -> Tensor:
        """Return an uninitialized matrix [K, P]."""
        while len(self.scratch) <= index:
            self.scratch.append(torch.empty_like(self.theta))
        return self.scratch[index]

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

    def bias_correction(self, beta: str) -> Tensor:
        """Return 1 - β^t."""
        return 1 - self[beta] ** self.t

    def descend(self, direction: Tensor, rate: Tensor) -> None:
        """θ ← θ - rate · direction."""
        self.theta.addcmul_(direction, self.cast(-rate))

    def descend_divided(self, direction: Tensor, divisor: Tensor, rate: Tensor) -> None:
        """θ ← θ - rate · direction / divisor."""
        scaled = torch.mul(direction, self.cast(-rate), out=self.workspace(1))
        self.theta.addcdiv_(scaled, divisor)

    def denominator(self, square: Tensor, epsilon: Tensor) -> Tensor:
        """Return √x + ε."""
        return torch.sqrt(square, out=self.workspace()).add_(self.cast(epsilon))


# ---- Formulas ----------------------------------------------------------------------------------------------


def _sgd(ctx: UpdateContext) -> None:
    ctx.decay()
    direction = ctx.g
    if "momentum_buffer" in ctx.state:
        velocity, momentum = ctx.state["momentum_buffer"], ctx["momentum"]
        share = torch.where(ctx.is_new | (momentum == 0), 1, 1 - ctx["dampening"])
        velocity.mul_(ctx.cast(momentum)).addcmul_(ctx.g, ctx.cast(share))
        direction = ctx.g.addcmul_(velocity, ctx.cast(momentum)) if ctx.flags["nesterov"] else velocity
    ctx.descend(direction, ctx["lr"])


def _running_max(ctx: UpdateContext, square: Tensor) -> Tensor:
    """Return the maximum of the average squares so far (AMSGrad)."""
    largest = ctx.state["max_exp_avg_sq"]
    return torch.maximum(largest, square, out=largest)


def _adam(ctx: UpdateContext) -> None:
    ctx.decay(decoupled=ctx.flags["decoupled_weight_decay"])
    mean = ctx.average("exp_avg", ctx.g, "beta1")
    square = ctx.average("exp_avg_sq", ctx.g.square_(), "beta2")
    if ctx.flags["amsgrad"]:
        square = _running_max(ctx, square)
    bias_correction = ctx.bias_correction("beta2").sqrt()
    ctx.descend_divided(
        mean,
        ctx.denominator(square, ctx["eps"] * bias_correction),
        ctx["lr"] * bias_correction / ctx.bias_correction("beta1"),
    )


def _adamax(ctx: UpdateContext) -> None:
    ctx.decay()
    mean = ctx.average("exp_avg", ctx.g, "beta1")
    largest = ctx.state["exp_inf"].mul_(ctx.cast(ctx["beta2"]))
    torch.maximum(largest, ctx.g.abs_().add_(ctx.cast(ctx["eps"])), out=largest)
    ctx.descend_divided(mean, largest, ctx["lr"] / ctx.bias_correction("beta1"))


def _nadam(ctx: UpdateContext) -> None:
    ctx.decay(decoupled=ctx.flags["decoupled_weight_decay"])
    mu, mu_next = (ctx["beta1"] * (1 - 0.5 * 0.96 ** (t * ctx["momentum_decay"])) for t in (ctx.t, ctx.t + 1))
    product = ctx.state["mu_product"]
    product.mul_(mu.to(product.dtype))
    mu_product = product.to(mu.dtype)
    mean = ctx.average("exp_avg", ctx.g, "beta1")
    square = ctx.average("exp_avg_sq", torch.square(ctx.g, out=ctx.workspace()), "beta2")
    bias_correction = ctx.bias_correction("beta2").sqrt()
    divisor = ctx.denominator(square, ctx["eps"] * bias_correction)
    rate = ctx["lr"] * bias_correction
    ctx.descend_divided(ctx.g, divisor, rate * (1 - mu) / (1 - mu_product))
    ctx.descend_divided(mean, divisor, rate * mu_next / (1 - mu_product * mu_next))


def _radam(ctx: UpdateContext) -> None:
    ctx.decay(decoupled=ctx.flags["decoupled_weight_decay"])
    mean = ctx.average("exp_avg", ctx.g, "beta1")
    square = ctx.average("exp_avg_sq", ctx.g.square_(), "beta2")
    bias_correction, decayed = ctx.bias_correction("beta2"), ctx["beta2"] ** ctx.t
    max_length = 2 / (1 - ctx["beta2"]) - 1
    length = max_length - 2 * ctx.t * decayed / bias_correction
    is_tractable = length > 5
    rectified = (
        (length - 4) * (length - 2) * max_length / ((max_length - 4) * (max_length - 2) * length) * bias_correction
    ).sqrt()
    divisor = ctx.denominator(square, ctx["eps"])
    divisor.masked_fill_(~is_tractable, 1)
    ctx.descend_divided(
        mean, divisor, ctx["lr"] / ctx.bias_correction("beta1") * torch.where(is_tractable, rectified, 1)
    )


def _adagrad(ctx: UpdateContext) -> None:
    ctx.decay()
    total = ctx.state["sum"].addcmul_(ctx.g, ctx.g)
    ctx.descend_divided(ctx.g, ctx.denominator(total, ctx["eps"]), ctx["lr"] / (1 + (ctx.t - 1) * ctx["lr_decay"]))


def _adadelta(ctx: UpdateContext) -> None:
    ctx.decay()
    square = ctx.average("square_avg", torch.square(ctx.g, out=ctx.workspace()), "rho")
    epsilon = ctx.cast(ctx["eps"])
    rms = torch.add(square, epsilon, out=ctx.workspace()).sqrt_()
    change = torch.add(ctx.state["acc_delta"], epsilon, out=ctx.workspace(1)).sqrt_().div_(rms).mul_(ctx.g)
    ctx.average("acc_delta", torch.square(change, out=ctx.g), "rho")
    ctx.descend(change, ctx["lr"])


def _rmsprop(ctx: UpdateContext) -> None:
    ctx.decay()
    square = ctx.average("square_avg", torch.square(ctx.g, out=ctx.workspace()), "alpha")
    if ctx.flags["centered"]:
        mean = ctx.average("grad_avg", ctx.g, "alpha")
        square = torch.addcmul(square, mean, mean, value=-1, out=ctx.workspace())
    divisor = ctx.denominator(square, ctx["eps"])
    if "momentum_buffer" in ctx.state:
        velocity = ctx.state["momentum_buffer"].mul_(ctx.cast(ctx["momentum"]))
        ctx.descend(velocity.addcdiv_(ctx.g, divisor), ctx["lr"])
    else:
        ctx.descend_divided(ctx.g, divisor, ctx["lr"])


def _adabound(ctx: UpdateContext) -> None:
    ctx.decay(decoupled=ctx.flags["weight_decouple"])
    mean = ctx.average("exp_avg", ctx.g, "beta1")
    square = ctx.average("exp_avg_sq", ctx.g.square_(), "beta2")
    if ctx.flags["ams_bound"]:
        square = _running_max(ctx, square)
    base = ctx["base_lr"]
    final = torch.where(base > 0, ctx["final_lr"] * ctx["lr"] / base, 0)
    divisor = torch.add(square, 1e-15, out=ctx.workspace()).sqrt_().add_(ctx.cast(ctx["eps"]))
    rate = ctx["lr"] * ctx.bias_correction("beta2").sqrt() / ctx.bias_correction("beta1")
    rates = torch.div(ctx.cast(rate), divisor, out=divisor)
    gamma_t = ctx["gamma"] * ctx.t
    torch.maximum(rates, ctx.cast(final * (1 - 1 / (gamma_t + 1))), out=rates)
    torch.minimum(rates, ctx.cast(final * (1 + 1 / gamma_t)), out=rates)
    ctx.theta.addcmul_(rates, mean, value=-1)


def _lion(ctx: UpdateContext) -> None:
    ctx.decay(decoupled=ctx.flags["weight_decouple"])
    direction = torch.lerp(ctx.state["exp_avg"], ctx.g, ctx.cast(1 - ctx["beta1"]), out=ctx.workspace()).sign_()
    ctx.average("exp_avg", ctx.g, "beta2")
    ctx.descend(direction, ctx["lr"])


def _textbook_momentum(ctx: UpdateContext) -> None:
    ctx.decay()
    lr, momentum = ctx.cast(ctx["lr"]), ctx.cast(ctx["momentum"])
    velocity = ctx.state["velocity"].mul_(momentum).addcmul_(ctx.g, lr)
    if ctx.flags["nesterov"]:
        ctx.theta.addcmul_(velocity, -momentum).addcmul_(ctx.g, -lr)
    else:
        ctx.theta.sub_(velocity)


def _textbook_adagrad(ctx: UpdateContext) -> None:
    ctx.decay()
    squares = ctx.state["squares"].addcmul_(ctx.g, ctx.g)
    ctx.descend_divided(ctx.g, torch.add(squares, ctx.cast(ctx["eps"]), out=ctx.workspace()).sqrt_(), ctx["lr"])


def _textbook_rmsprop(ctx: UpdateContext) -> None:
    ctx.decay()
    mean = ctx.average("mean", torch.square(ctx.g, out=ctx.workspace()), "alpha")
    ctx.descend_divided(ctx.g, torch.add(mean, ctx.cast(ctx["eps"]), out=ctx.workspace()).sqrt_(), ctx["lr"])


# ---- Optimizers --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UpdateRule:
    """Update rule of an optimizer for all members.

    Args:
        formula: takes one step.
        settings: numeric settings of its parameter groups; the formula sees ``betas`` as ``beta1`` and ``beta2``.
        buffers: tensors of its state with the shape of a parameter, each with the setting or flag that it requires, or ``""``.
        scalars: numbers of its state of each parameter, with their initial values.
        flags: settings that must be the same for all members.
        counts_steps: whether it counts steps in its parameter groups.
        uses_base_lrs: whether it uses its initial learning rates, ``base_lrs``; the formula sees them as ``base_lr``.
    """

    formula: Callable[[UpdateContext], None]
    settings: tuple[str, ...]
    buffers: Mapping[str, str]
    scalars: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    counts_steps: bool = False
    uses_base_lrs: bool = False


_STEP = {"step": 0.0}
_MOMENTS = {"exp_avg": "", "exp_avg_sq": ""}
_ADAM = ("lr", "betas", "eps", "weight_decay")

RULES: dict[str, UpdateRule] = {
    "torch.optim.SGD": UpdateRule(
        _sgd, ("lr", "momentum", "dampening", "weight_decay"), {"momentum_buffer": "momentum"}, flags=("nesterov",)
    ),
    "torch.optim.Adam": UpdateRule(
        _adam, _ADAM, {**_MOMENTS, "max_exp_avg_sq": "amsgrad"}, _STEP, flags=("amsgrad", "decoupled_weight_decay")
    ),
    "torch.optim.Adamax": UpdateRule(_adamax, _ADAM, {"exp_avg": "", "exp_inf": ""}, _STEP),
    "torch.optim.NAdam": UpdateRule(
        _nadam, (*_ADAM, "momentum_decay"), _MOMENTS, {**_STEP, "mu_product": 1.0}, flags=("decoupled_weight_decay",)
    ),
    "torch.optim.RAdam": UpdateRule(_radam, _ADAM, _MOMENTS, _STEP, flags=("decoupled_weight_decay",)),
    "torch.optim.Adagrad": UpdateRule(_adagrad, ("lr", "lr_decay", "eps", "weight_decay"), {"sum": ""}, _STEP),
    "torch.optim.Adadelta": UpdateRule(
        _adadelta, ("lr", "rho", "eps", "weight_decay"), {"square_avg": "", "acc_delta": ""}, _STEP
    ),
    "torch.optim.RMSprop": UpdateRule(
        _rmsprop,
        ("lr", "alpha", "eps", "momentum", "weight_decay"),
        {"square_avg": "", "momentum_buffer": "momentum", "grad_avg": "centered"},
        _STEP,
        flags=("centered",),
    ),
    "pytorch_optimizer.AdaBound": UpdateRule(
        _adabound,
        (*_ADAM, "final_lr", "gamma"),
        {**_MOMENTS, "max_exp_avg_sq": "ams_bound"},
        flags=("ams_bound", "weight_decouple"),
        counts_steps=True,
        uses_base_lrs=True,
    ),
    "pytorch_optimizer.Lion": UpdateRule(
        _lion, ("lr", "betas", "weight_decay"), {"exp_avg": ""}, flags=("weight_decouple",), counts_steps=True
    ),
    "src.optim.textbook.Momentum": UpdateRule(
        _textbook_momentum, ("lr", "momentum", "weight_decay"), {"velocity": ""}, flags=("nesterov",)
    ),
    "src.optim.textbook.Adagrad": UpdateRule(_textbook_adagrad, ("lr", "eps", "weight_decay"), {"squares": ""}),
    "src.optim.textbook.RMSprop": UpdateRule(_textbook_rmsprop, ("lr", "alpha", "eps", "weight_decay"), {"mean": ""}),
}
RULES["torch.optim.AdamW"] = RULES["torch.optim.Adam"]
"""Update rules by the class path in the config; strings, because importing pytorch_optimizer takes half a second."""


def rule_of(kind: type[Optimizer]) -> UpdateRule | None:
    """Return the update rule of an optimizer class; None if there is none."""
    for target, rule in RULES.items():
        module, _, name = target.rpartition(".")
        if getattr(sys.modules.get(module), name, None) is kind:
            return rule
    return None


IMPLEMENTATION_FLAGS = ("foreach", "fused")
"""Flags that select an implementation and do not change the formula."""


def optimizer_problem(optimizers: Sequence[Optimizer]) -> str | None:
    """Return why optimizers cannot be combined; None if they can."""
    first = optimizers[0]
    for optimizer in optimizers:
        if type(optimizer) is not type(first):
            return f"the optimizers differ: {type(first).__name__} and {type(optimizer).__name__}"
    rule = rule_of(type(first))
    if rule is None:
        return f"{type(first).__name__} is not supported in fused training (src/fused/population/update_rules.py)"
    flags = {flag: first.param_groups[0][flag] for flag in rule.flags}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for key, value in group.items():
                if key in flags and value != flags[key]:
                    return f"the optimizers differ in {key}: {flags[key]} and {value}"
                if value is True and key not in flags and key not in IMPLEMENTATION_FLAGS:
                    return f"{type(first).__name__} with {key} is not supported in fused training"
    return None
