"""Every optimizer for 100 steps against its formula, written out here in float64."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from src import ROOT
from src.config.check import check
from src.config.compose import compose
from src.config.schema import Config
from src.errors import UserError
from src.optim.build import build_optimizer

OPTIONS = sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml"))
REQUIREMENTS = {
    "sgd": "O1", "momentum": "O2", "nesterov": "O3", "adagrad": "O4", "rmsprop": "O5", "adam": "O6", "adamw": "O7",
    "radam": "O8", "adabound": "O9",
}  # fmt: skip
STEPS, DECAY = 100, 0.01
Vector = np.ndarray


@cache
def config_of(*words: str) -> Config:
    return check(compose(["model=mlp", *words]))


class Point(nn.Module):
    """One vector θ [6]."""

    def __init__(self, start: Vector) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(start, dtype=torch.float64))


# ---- the formulas -------------------------------------------------------------------------------------------
# Each takes (t, g, θ, η, memory) and returns the next θ; memory is a dictionary that starts empty. λ is coupled,
# g + λθ, unless the formula says otherwise.


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


FORMULAS: dict[str, Callable[..., Vector]] = {
    f.__name__: f for f in (sgd, momentum, nesterov, adagrad, rmsprop, adam, adamw, radam, adabound)
}


def run(name: str, gradients: Vector, lrs: Vector, start: Vector) -> tuple[Vector, Vector]:
    """Return θ after every step, of the optimizer and of its formula."""
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
    assert set(OPTIONS) == set(FORMULAS) == set(REQUIREMENTS)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.req(req)) for name, req in REQUIREMENTS.items()])
@pytest.mark.parametrize("schedule", ["constant", "falling"])
def test_hundred_steps(name: str, schedule: str) -> None:
    random = np.random.default_rng(0)
    lr = config_of(f"optimizer={name}").optimizer.lr
    lrs = lr * (np.ones(STEPS) if schedule == "constant" else 0.97 ** np.arange(STEPS))
    gradients = random.normal(size=(STEPS, 6)) * 10.0 ** np.arange(-3, 3)
    optimizer, formula = run(name, gradients, lrs, random.normal(size=6))
    np.testing.assert_allclose(optimizer, formula, rtol=1e-9, atol=1e-12)


# ---- errata: the textbook's forms against torch's -----------------------------------------------------------


def textbook_momentum(gradients: Vector, lrs: Vector) -> Vector:
    theta, v, path = np.zeros(6), np.zeros(6), []
    for gradient, lr in zip(gradients, lrs, strict=True):
        v = 0.9 * v + lr * gradient
        theta = theta - v
        path.append(theta)
    return np.array(path)


def torch_path(name: str, gradients: Vector, lrs: Vector) -> Vector:
    model, path = Point(np.zeros(6)), []
    optimizer = build_optimizer(model, config_of(f"optimizer={name}"))
    for gradient, lr in zip(gradients, lrs, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        model.theta.grad = torch.tensor(gradient)
        optimizer.step()
        path.append(model.theta.detach().numpy().copy())
    return np.array(path)


@pytest.mark.req("O2")
def test_erratum_e9_velocity_holds_or_leaves_the_rate() -> None:
    gradients = np.random.default_rng(1).normal(size=(STEPS, 6))
    constant, falling = np.full(STEPS, 0.02), 0.02 * 0.5 ** (np.arange(STEPS) // 25)
    np.testing.assert_allclose(torch_path("momentum", gradients, constant), textbook_momentum(gradients, constant))
    apart = np.abs(torch_path("momentum", gradients, falling) - textbook_momentum(gradients, falling))
    assert apart[:25].max() < 1e-12 < 1e-3 < apart[25:].max(), "they part where the rate moves"


@pytest.mark.req("O3")
def test_nesterov_is_the_textbook_s_lookahead_seen_from_ahead() -> None:
    """v = γv + η∇L(θ - γv), θ ← θ - v; torch keeps θ - γv in place of θ."""
    scales = np.arange(1.0, 7.0)
    theta, v = np.ones(6), np.zeros(6)
    model = Point(np.ones(6))
    optimizer = build_optimizer(model, config_of("optimizer=nesterov"))
    lr = optimizer.param_groups[0]["lr"]
    for _ in range(STEPS):
        np.testing.assert_allclose(model.theta.detach().numpy(), theta - 0.9 * v, rtol=1e-9, atol=1e-15)
        v = 0.9 * v + lr * scales * (theta - 0.9 * v)
        theta = theta - v
        model.theta.grad = torch.tensor(scales) * model.theta.detach()
        optimizer.step()


@pytest.mark.req("O5")
def test_erratum_e8_epsilon_inside_or_outside_the_root() -> None:
    """√(v + ε) and √v + ε agree while v is far above ε, and the textbook's is smaller where gradients vanish."""
    gradients = np.tile(np.array([1.0, 1e-1, 1e-2, 1e-3, 1e-6, 1e-8]), (1, 1))
    step = -torch_path("rmsprop", gradients, np.array([1e-3]))[0]
    v = 0.1 * gradients[0] ** 2
    textbook = 1e-3 * gradients[0] / np.sqrt(v + 1e-8)
    np.testing.assert_allclose(step, 1e-3 * gradients[0] / (np.sqrt(v) + 1e-8))
    np.testing.assert_allclose(step[:3], textbook[:3], rtol=1e-3)
    assert (step[-2:] > 50 * textbook[-2:]).all()


# ---- facts that the textbook states -------------------------------------------------------------------------


def steps_to_converge(name: str, condition: float, lr: float, *words: str) -> int:
    """Return the steps until ½ Σ λ_i θ_i², with λ from 1 to κ, brings |θ| below 1e-6 of its start."""
    eigenvalues = torch.logspace(0, math.log10(condition), 6, dtype=torch.float64)
    model = Point(np.ones(6))
    optimizer = build_optimizer(model, config_of(f"optimizer={name}", f"optimizer.lr={lr}", *words))
    for step in range(1, 100_000):
        model.theta.grad = eigenvalues * model.theta.detach()
        optimizer.step()
        if float(model.theta.detach().norm()) < 1e-6:
            return step
    raise AssertionError("it does not converge")


@pytest.mark.req("O1")
@pytest.mark.req("O2")
def test_momentum_needs_the_root_of_the_condition_number() -> None:
    """SGD at its best rate 2/(λ_min + λ_max) takes O(κ) steps, heavy-ball momentum at its best O(√κ)."""

    def steps(condition: float) -> tuple[int, int]:
        root = math.sqrt(condition)
        best = 4 / (root + 1) ** 2
        gamma = ((root - 1) / (root + 1)) ** 2
        return (
            steps_to_converge("sgd", condition, 2 / (1 + condition)),
            steps_to_converge("momentum", condition, best, f"optimizer.momentum={gamma}"),
        )

    (plain, heavy), (plain_hard, heavy_hard) = steps(25), steps(400)
    assert plain_hard / plain == pytest.approx(400 / 25, rel=0.15)
    assert heavy_hard / heavy == pytest.approx(math.sqrt(400 / 25), rel=0.25)


@pytest.mark.req("O4")
def test_adagrad_moves_rare_features_as_far_as_frequent_ones() -> None:
    """After n equal gradients a feature has moved by η Σ 1/√i, whatever the gradient's size; a rare one moves more at
    each of its appearances than a frequent one does at the same time.
    """
    gradients = np.zeros((STEPS, 6))
    gradients[:, 0], gradients[9::10, 1], gradients[9::10, 2] = 1.0, 1.0, 100.0
    path = torch_path("adagrad", gradients, np.full(STEPS, 0.05))
    moved = -np.diff(path, axis=0, prepend=np.zeros((1, 6)))
    np.testing.assert_allclose(
        -path[-1, :3], 0.05 * np.array([sum(i**-0.5 for i in range(1, n + 1)) for n in (100, 10, 10)])
    )
    assert moved[-1, 1] == pytest.approx(math.sqrt(10) * moved[-1, 0])


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


def test_a_preset_comes_after_the_decay_of_adamw() -> None:
    optimizer = build_optimizer(Point(np.ones(6)), config_of("optimizer=adamw", "regularization=l2"))
    assert optimizer.param_groups[0]["weight_decay"] == 1e-4


class NoDecay(torch.optim.Optimizer):
    """An optimizer of a user's, without weight decay."""

    def __init__(self, params: list[Tensor], lr: float = 0.1, pair: tuple[float, float] = (0.0, 1.0)) -> None:
        assert isinstance(pair, tuple)
        super().__init__(params, {"lr": lr})


def test_an_optimizer_without_decay_is_refused_where_decay_is_asked_for() -> None:
    config = config_of("optimizer=sgd", "regularization=l2")
    option = _user_s(NoDecay, lr=0.1, pair=[0.0, 1.0])
    with pytest.raises(UserError, match=r"regularization.weight_decay=0.0001: optimizer=mine has no weight decay"):
        build_optimizer(Point(np.ones(6)), config.model_copy(update={"optimizer": option}))
    optimizer = build_optimizer(Point(np.ones(6)), config_of("optimizer=sgd").model_copy(update={"optimizer": option}))
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_two_decays_that_differ_are_refused() -> None:
    config = config_of("optimizer=sgd", "optimizer.weight_decay=0.1", "regularization.weight_decay=0.01")
    with pytest.raises(UserError, match=r"optimizer.weight_decay=0.1 and regularization.weight_decay=0.01"):
        build_optimizer(Point(np.ones(6)), config)


def test_what_a_user_s_optimizer_refuses_is_told() -> None:
    option = _user_s(torch.optim.SGD, lr=-1.0, weight_decay=0.0)
    with pytest.raises(UserError, match=r"optimizer=mine: Invalid learning rate: -1\.0"):
        build_optimizer(Point(np.ones(6)), config_of("optimizer=sgd").model_copy(update={"optimizer": option}))


@pytest.mark.parametrize("words", [["optimizer.momentum=0.0"], ["optimizer.dampening=0.1"]])
def test_nesterov_needs_a_velocity(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"optimizer\.nesterov=true: Nesterov's form needs optimizer.momentum above 0"):
        config_of("optimizer=nesterov", *words)


def _user_s(cls: type, **settings: object) -> object:
    from pydantic import create_model

    from src.config.schema import Option

    fields = {name: (type(value), ...) for name, value in settings.items()}
    return create_model("Mine", __base__=Option, **fields)(
        _target_=f"{cls.__module__}.{cls.__qualname__}", name="mine", **settings
    )
