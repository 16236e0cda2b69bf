"""Every optimizer for 100 steps against its explicit formula in float64."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src import ROOT
from src.config.combinations import combination_problems
from src.config.compose import compose
from src.config.schema.run import Config
from src.config.validate import check
from src.core.errors import UserError
from src.optim.factory import build_optimizer

OPTIONS = sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml"))
REQUIREMENTS = {
    "sgd": "O1", "momentum": "O2", "nesterov": "O3", "adagrad": "O4", "rmsprop": "O5", "adam": "O6", "adamw": "O7",
    "radam": "O8", "adabound": "O9", "momentum_textbook": "O2", "adagrad_textbook": "O4", "rmsprop_textbook": "O5",
}  # fmt: skip
BEYOND_THE_TEXTBOOK = ("adadelta", "adamax", "nadam", "lion")
STEPS, DECAY = 100, 0.01
Vector = np.ndarray


@cache
def config_of(*overrides: str) -> Config:
    return check(compose(["model=mlp", *overrides]))


class Point(nn.Module):
    """One vector θ [6]."""

    def __init__(self, start: Vector) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(start, dtype=torch.float64))


# ---- the formulas -------------------------------------------------------------------------------------------
# Each takes (t, g, θ, η, memory) and returns the next θ; memory is a dictionary that starts empty. λ is coupled,
# g + λθ, unless stated otherwise.


def sgd(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    return theta - lr * (g + DECAY * theta)


def momentum(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    m["v"] = 0.9 * m.get("v", 0.0) + g + DECAY * theta  # torch's form; see the test of erratum E9 for the textbook's
    return theta - lr * m["v"]


def nesterov(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    g = g + DECAY * theta
    m["v"] = 0.9 * m.get("v", 0.0) + g
    return theta - lr * (g + 0.9 * m["v"])


def adagrad(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    g = g + DECAY * theta
    m["G"] = m.get("G", 0.0) + g**2
    return theta - lr * g / (np.sqrt(m["G"]) + 1e-10)


def rmsprop(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    g = g + DECAY * theta
    m["v"] = 0.9 * m.get("v", 0.0) + 0.1 * g**2
    return theta - lr * g / (np.sqrt(m["v"]) + 1e-8)


def moments(t: int, g: Vector, m: dict[str, Vector]) -> tuple[Vector, Vector]:
    m["m"] = 0.9 * m.get("m", 0.0) + 0.1 * g
    m["v"] = 0.999 * m.get("v", 0.0) + 0.001 * g**2
    return m["m"] / (1 - 0.9**t), m["v"] / (1 - 0.999**t)


def adam(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    first, second = moments(t, g + DECAY * theta, m)
    return theta - lr * first / (np.sqrt(second) + 1e-8)


def adamw(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    first, second = moments(t, g, m)
    return (1 - lr * DECAY) * theta - lr * first / (np.sqrt(second) + 1e-8)


def radam(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    """Liu et al. 2020, algorithm 2: plain momentum until the length ρ of the second moment's memory exceeds 5."""
    first, _ = moments(t, g + DECAY * theta, m)
    longest = 2 / (1 - 0.999) - 1
    length = longest - 2 * t * 0.999**t / (1 - 0.999**t)
    if length <= 5:
        return theta - lr * first
    rectified = math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    return theta - lr * rectified * first * math.sqrt(1 - 0.999**t) / (np.sqrt(m["v"]) + 1e-8)


def adabound(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    """Luo et al. 2019, algorithm 1, with Adam's bias corrections and the bounds of its section 4.1 on each rate."""
    moments(t, g + DECAY * theta, m)
    final = 0.1 * lr / 1e-3  # the bounds move with a schedule, which starts at 1e-3
    low, high = final * (1 - 1 / (1e-3 * t + 1)), final * (1 + 1 / (1e-3 * t))
    rate = lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) / (np.sqrt(m["v"]) + 1e-8)
    return theta - np.clip(rate, low, high) * m["m"]


def momentum_textbook(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    m["v"] = 0.9 * m.get("v", 0.0) + lr * (g + DECAY * theta)
    return theta - m["v"]


def adagrad_textbook(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    g = g + DECAY * theta
    m["G"] = m.get("G", 0.0) + g**2
    return theta - lr / np.sqrt(m["G"] + 1e-8) * g


def rmsprop_textbook(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    g = g + DECAY * theta
    m["v"] = 0.9 * m.get("v", 0.0) + 0.1 * g**2
    return theta - lr / np.sqrt(m["v"] + 1e-8) * g


def adadelta(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    """Zeiler 2012, algorithm 1."""
    g = g + DECAY * theta
    m["v"] = 0.9 * m.get("v", 0.0) + 0.1 * g**2
    change = np.sqrt(m.get("d", 0.0) + 1e-6) / np.sqrt(m["v"] + 1e-6) * g
    m["d"] = 0.9 * m.get("d", 0.0) + 0.1 * change**2
    return theta - lr * change


def adamax(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    """Kingma and Ba 2015, algorithm 2; ε is added to |g|, as torch does."""
    g = g + DECAY * theta
    m["m"] = 0.9 * m.get("m", 0.0) + 0.1 * g
    m["u"] = np.maximum(0.999 * m.get("u", 0.0), np.abs(g) + 1e-8)
    return theta - lr / (1 - 0.9**t) * m["m"] / m["u"]


def nadam(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    """Dozat 2016, algorithm 2, with its schedule of β1: μ_t = 0.9·(1 - ½·0.96^(0.004·t))."""
    g = g + DECAY * theta
    now, following = (0.9 * (1 - 0.5 * 0.96 ** (step * 0.004)) for step in (t, t + 1))
    m["product"] = m.get("product", 1.0) * now
    m["m"] = 0.9 * m.get("m", 0.0) + 0.1 * g
    m["v"] = 0.999 * m.get("v", 0.0) + 0.001 * g**2
    ahead = following * m["m"] / (1 - m["product"] * following) + (1 - now) * g / (1 - m["product"])
    return theta - lr * ahead / (np.sqrt(m["v"] / (1 - 0.999**t)) + 1e-8)


def lion(t: int, g: Vector, theta: Vector, lr: float, m: dict[str, Vector]) -> Vector:
    """Chen et al. 2023, program 1; decoupled."""
    before = m.get("m", 0.0)
    m["m"] = 0.99 * before + 0.01 * g
    return (1 - lr * DECAY) * theta - lr * np.sign(0.9 * before + 0.1 * g)


FORMULAS: dict[str, Callable[..., Vector]] = {name: globals()[name] for name in (*REQUIREMENTS, *BEYOND_THE_TEXTBOOK)}


def run_both(name: str, gradients: Vector, lrs: Vector, start: Vector) -> tuple[Vector, Vector]:
    """Return θ after every step, by the optimizer and by the formula."""
    model = Point(start)
    optimizer = build_optimizer(model, config_of(f"optimizer={name}", f"regularization.weight_decay={DECAY}"))
    theta, memory, mine, torchs = start.copy(), {}, [], []
    for t, (gradient, lr) in enumerate(zip(gradients, lrs, strict=True), 1):
        optimizer.param_groups[0]["lr"] = lr
        model.theta.grad = torch.tensor(gradient + np.sin(model.theta.detach().numpy()))
        optimizer.step()
        torchs.append(model.theta.detach().numpy().copy())
        theta = FORMULAS[name](t, gradient + np.sin(theta), theta, lr, memory)
        mine.append(theta)
    return np.array(torchs), np.array(mine)


def test_every_option_has_a_formula() -> None:
    assert set(OPTIONS) == set(FORMULAS)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.req(req)) for name, req in REQUIREMENTS.items()] + [*BEYOND_THE_TEXTBOOK],
)
@pytest.mark.parametrize("schedule", ["constant", "falling"])
def test_hundred_steps_equal_the_formula(name: str, schedule: str) -> None:
    random = np.random.default_rng(0)
    lr = config_of(f"optimizer={name}").optimizer.lr
    lrs = lr * (np.ones(STEPS) if schedule == "constant" else 0.97 ** np.arange(STEPS))
    gradients = random.normal(size=(STEPS, 6)) * 10.0 ** np.arange(-3, 3)
    optimizer, formula = run_both(name, gradients, lrs, random.normal(size=6))
    np.testing.assert_allclose(optimizer, formula, rtol=1e-9, atol=1e-12)


# ---- errata: the textbook's forms against torch's -----------------------------------------------------------


@pytest.mark.req("O2")
@pytest.mark.parametrize("form", ["momentum", "nesterov"])
def test_erratum_e9_rate_inside_or_outside_the_velocity(descent_path: Callable[..., Vector], form: str) -> None:
    """v = γv + ηg against η·(γv + g): the same path while η is constant; if η is halved, torch's step is halved immediately,
    and the textbook's velocity still contains the old rate.
    """
    torchs, textbook = (
        f"optimizer={form}",
        f"optimizer=momentum_textbook optimizer.nesterov={form == 'nesterov'}".lower(),
    )
    gradients = np.random.default_rng(1).normal(size=(STEPS + 1, 6))
    constant, falling = np.full(STEPS, 0.02), 0.02 * 0.5 ** (np.arange(STEPS) // 25)
    for rates in (constant, falling):
        one, other = (descent_path(w, lambda t, _: gradients[t], STEPS, np.zeros(6), rates) for w in (torchs, textbook))
        difference = np.abs(one - other).max(axis=1)
        assert difference[:26].max() < 1e-12
        assert difference[26:].max() < 1e-12 if rates is constant else difference[26:].max() > 1e-3
    steady = [descent_path(w, lambda t, _: 1.0, STEPS, 0.0, falling)[:, 0] for w in (torchs, textbook)]
    torch_ratio, textbook_ratio = (np.diff(path)[50] / np.diff(path)[49] for path in steady)
    assert torch_ratio == pytest.approx(0.5, rel=0.05)
    assert textbook_ratio == pytest.approx(0.95, rel=0.05), "0.9 of the old velocity, and half of the remaining 0.1"


@pytest.mark.req("O3")
@pytest.mark.parametrize("overrides", ["optimizer=nesterov", "optimizer=momentum_textbook optimizer.nesterov=true"])
def test_nesterov_stores_the_textbook_lookahead_point(descent_path: Callable[..., Vector], overrides: str) -> None:
    """v = γv + η∇L(θ - γv), θ ← θ - v; the stored parameter is θ - γv. The textbook's form also holds if η changes."""
    scales, lrs = np.arange(1.0, 7.0), np.full(STEPS, 0.02)
    if "textbook" in overrides:
        lrs = 0.02 * 0.97 ** np.arange(STEPS)
    theta, v, expected = np.ones(6), np.zeros(6), [np.ones(6)]
    for lr in lrs:
        v = 0.9 * v + lr * scales * (theta - 0.9 * v)
        theta = theta - v
        expected.append(theta - 0.9 * v)
    path = descent_path(overrides, lambda t, ahead: scales * ahead, STEPS, np.ones(6), lrs)
    np.testing.assert_allclose(path, np.array(expected), rtol=1e-9, atol=1e-14)


@pytest.mark.req("O4")
@pytest.mark.req("O5")
@pytest.mark.parametrize(("form", "share"), [("adagrad", 1.0), ("rmsprop", 0.1)])
def test_erratum_e8_epsilon_inside_or_outside_the_root(
    descent_path: Callable[..., Vector], form: str, share: float
) -> None:
    """√(v + ε) and √v + ε agree while v is much larger than ε; for vanishing gradients, the textbook's step is much smaller:
    it is bounded by η·g/√ε instead of η·g/ε.
    """
    g = np.array([1.0, 1e-1, 1e-2, 1e-5, 1e-6])
    overrides = f"optimizer.lr=1 optimizer.eps=1e-8 optimizer={form}"
    outside, inside = (-descent_path(overrides + end, lambda t, _: g, 1, np.zeros(5))[1] for end in ("", "_textbook"))
    np.testing.assert_allclose(outside, g / (np.sqrt(share) * g + 1e-8))
    np.testing.assert_allclose(inside, g / np.sqrt(share * g**2 + 1e-8))
    np.testing.assert_allclose(inside[:3], outside[:3], rtol=1e-3)
    assert (outside[3:] > 3 * inside[3:]).all() and (inside[3:] <= g[3:] / 1e-4).all()


# ---- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("adam", {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}),
        ("adamw", {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}),
        ("momentum", {"momentum": 0.9, "nesterov": False}),
        ("nesterov", {"momentum": 0.9, "nesterov": True}),
        ("rmsprop", {"alpha": 0.9}),
    ],
)
def test_textbook_defaults(name: str, expected: dict[str, object]) -> None:
    optimizer = build_optimizer(Point(np.ones(6)), config_of(f"optimizer={name}"))
    assert {key: optimizer.defaults[key] for key in expected if key != "weight_decay"} | {
        "weight_decay": optimizer.param_groups[0]["weight_decay"]
    } == {"weight_decay": 0.0} | expected


def test_l2_preset_overrides_the_decay_of_adamw() -> None:
    optimizer = build_optimizer(Point(np.ones(6)), config_of("optimizer=adamw", "regularization=l2"))
    assert optimizer.param_groups[0]["weight_decay"] == 1e-4


class NoDecay(torch.optim.Optimizer):
    """A custom optimizer without weight decay."""

    def __init__(self, params: list[Tensor], lr: float = 0.1, pair: tuple[float, float] = (0.0, 1.0)) -> None:
        assert isinstance(pair, tuple)
        super().__init__(params, {"lr": lr})


def test_weight_decay_with_an_optimizer_without_decay_is_rejected() -> None:
    config = config_of("optimizer=sgd", "regularization=l2")
    option = _custom_option(NoDecay, lr=0.1, pair=[0.0, 1.0])
    assert combination_problems(config.model_copy(update={"optimizer": option})) == [
        "regularization.weight_decay=0.0001: optimizer=mine has no weight decay."
    ]
    config = config_of("optimizer=sgd", "regularization.weight_decay_by_layer={theta: 0.1}")
    assert combination_problems(config.model_copy(update={"optimizer": option})) == [
        "regularization.weight_decay_by_layer={'theta': 0.1}: optimizer=mine has no weight decay."
    ]
    optimizer = build_optimizer(Point(np.ones(6)), config_of("optimizer=sgd").model_copy(update={"optimizer": option}))
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_two_different_decays_are_rejected() -> None:
    with pytest.raises(UserError, match=r"optimizer.weight_decay=0.1 and regularization.weight_decay=0.01"):
        config_of("optimizer=sgd", "optimizer.weight_decay=0.1", "regularization.weight_decay=0.01")
    assert config_of("optimizer=sgd", "optimizer.weight_decay=0.1").optimizer.arguments()["weight_decay"] == 0.1


def test_error_of_a_custom_optimizer_is_reported() -> None:
    option = _custom_option(torch.optim.SGD, lr=-1.0, weight_decay=0.0)
    with pytest.raises(UserError, match=r"optimizer=mine: Invalid learning rate: -1\.0"):
        build_optimizer(Point(np.ones(6)), config_of("optimizer=sgd").model_copy(update={"optimizer": option}))


@pytest.mark.parametrize("overrides", [["optimizer.momentum=0.0"], ["optimizer.dampening=0.1"]])
def test_nesterov_needs_a_velocity(overrides: list[str]) -> None:
    with pytest.raises(
        UserError, match=r"optimizer\.nesterov=true: Nesterov momentum needs optimizer.momentum above 0"
    ):
        config_of("optimizer=nesterov", *overrides)


def _custom_option(cls: type, **settings: object) -> object:
    from pydantic import create_model

    from src.config.schema.base import Option

    fields = {name: (type(value), ...) for name, value in settings.items()}
    return create_model("Mine", __base__=Option, **fields)(
        _target_=f"{cls.__module__}.{cls.__qualname__}", name="mine", **settings
    )


@pytest.mark.parametrize(
    ("overrides", "fused"),
    [
        (["optimizer=adam"], True),
        (["optimizer=adamw"], True),
        (["optimizer=adagrad"], True),
        (["optimizer=nadam"], False),  # torch has no fused NAdam
        (["optimizer=adam", "trainer.precision=16-mixed"], False),  # its gradients could not be clipped
        (["optimizer=adam", "trainer.precision=bf16-mixed"], False),
        (["optimizer=adam", "trainer.precision=bf16-true"], True),
        (["optimizer=adam", "trainer.strategy=fsdp"], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_fused_step_is_used_where_torch_has_one(overrides: list[str], fused: bool) -> None:
    optimizer = build_optimizer(Point(np.ones(6)), config_of(*overrides))
    assert bool(optimizer.defaults.get("fused")) is fused


def test_run_without_fused_step_resumes_without_it() -> None:
    """A checkpoint of another version resumes exactly."""
    saved = torch.optim.Adam(Point(np.ones(6)).parameters())
    optimizer = build_optimizer(Point(np.ones(6)), config_of("optimizer=adam"))
    optimizer.load_state_dict(saved.state_dict())
    assert not optimizer.param_groups[0]["fused"]
