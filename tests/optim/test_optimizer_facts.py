"""Properties of the optimizers that the textbook states, on small problems with known solutions."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from src.core.batches import LabelledBatch
from src.datamodules.loaders.in_memory import BatchLoader

Descend = Callable[..., np.ndarray]
SCALES = 10.0 ** np.arange(-3, 3)


def quadratic(condition: float) -> np.ndarray:
    """Return λ from 1 to κ: the loss is ½ Σ λ_i θ_i², its gradient λθ."""
    return np.logspace(0, math.log10(condition), 6)


def steps_to(path: np.ndarray, share: float = 1e-6) -> int:
    """Return the number of steps after which |θ| stays below a share of its initial value."""
    distance = np.linalg.norm(path, axis=1)
    assert distance[-1] < share * distance[0], "no convergence"
    return int(np.flatnonzero(distance >= share * distance[0])[-1]) + 1


# ---- SGD, momentum, Nesterov --------------------------------------------------------------------------------------


@pytest.mark.req("O1")
def test_batch_gradients_have_the_expected_mean_and_variance() -> None:
    """E[∇L_batch] = ∇L, and Var = σ²/B · (N-B)/(N-1), as batches are drawn without replacement."""
    size = 64
    gradients = torch.randn(size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    for batch in (4, 16):
        means = []
        for epoch in range(400):
            loader = BatchLoader(LabelledBatch(gradients, gradients), batch, shuffle=True)
            loader.set_epoch(epoch)
            means.append(torch.stack([part.x.mean(0) for part in loader]))
            torch.testing.assert_close(means[-1].mean(0), gradients.mean(0))
        expected = gradients.var(0, correction=0) / batch * (size - batch) / (size - 1)
        torch.testing.assert_close(torch.cat(means).var(0, correction=0), expected, rtol=0.12, atol=0.0)


@pytest.mark.req("O1")
def test_falling_rate_converges_despite_noise_and_constant_rate_does_not(descent_path: Descend) -> None:
    """On ½θ² with noise of variance 1, a constant η gives θ the variance η/(2-η); with η = 1/t, where Ση = ∞ and Ση² < ∞, θ
    is the mean of the noise, with variance 1/t.
    """
    steps, copies = 400, 4000
    noise = np.random.default_rng(0).normal(size=(steps + 1, copies))
    for rates, expected in ((np.full(steps, 0.5), 0.5 / 1.5), (1 / np.arange(1, steps + 1), 1 / steps)):
        path = descent_path("optimizer=sgd", lambda t, theta: theta + noise[t], steps, np.ones(copies), rates)
        assert path[-1].var() == pytest.approx(expected, rel=0.1)


@pytest.mark.req("O1")
@pytest.mark.req("O2")
def test_momentum_needs_root_kappa_steps(descent_path: Descend) -> None:
    """SGD with its optimal rate 2/(λ_min + λ_max) needs O(κ) steps, heavy-ball momentum with its optimal settings O(√κ).

    Its optimal γ is the square of the textbook's (√κ - 1)/(√κ + 1), which is optimal for Nesterov (below).
    """

    def steps(condition: float) -> tuple[int, int]:
        curvature, root = quadratic(condition), math.sqrt(condition)
        best, gamma = 4 / (root + 1) ** 2, ((root - 1) / (root + 1)) ** 2
        plain = f"optimizer=sgd optimizer.lr={2 / (1 + condition)}"
        heavy = f"optimizer=momentum optimizer.lr={best} optimizer.momentum={gamma}"
        gradient = lambda t, theta: curvature * theta  # noqa: E731
        return (
            steps_to(descent_path(plain, gradient, 20 * int(condition), np.ones(6))),
            steps_to(descent_path(heavy, gradient, 40 * int(root), np.ones(6))),
        )

    (plain, heavy), (plain_hard, heavy_hard) = steps(25), steps(400)
    assert plain_hard / plain == pytest.approx(400 / 25, rel=0.15)
    assert heavy_hard / heavy == pytest.approx(math.sqrt(400 / 25), rel=0.25)


@pytest.mark.req("O3")
def test_nesterov_needs_root_kappa_steps(descent_path: Descend) -> None:
    """With η = 1/λ_max and the textbook's γ = (√κ - 1)/(√κ + 1)."""

    def steps(condition: float) -> int:
        curvature, root = quadratic(condition), math.sqrt(condition)
        overrides = f"optimizer=nesterov optimizer.lr={1 / condition} optimizer.momentum={(root - 1) / (root + 1)}"
        return steps_to(descent_path(overrides, lambda t, theta: curvature * theta, 60 * int(root), np.ones(6)))

    assert steps(1600) / steps(100) == pytest.approx(4, rel=0.2)


@pytest.mark.req("O2")
def test_momentum_lengthens_steady_and_shortens_alternating_steps(descent_path: Descend) -> None:
    """A steady gradient moves θ by η/(1-γ) per step, as the textbook states. An alternating one moves it by η/(1+γ): the
    textbook's damping by (1-γ) would be a tenth at γ = 0.9, but it is about a half.
    """
    overrides = "optimizer=momentum optimizer.lr=0.01 optimizer.momentum=0.9"
    steady = np.diff(descent_path(overrides, lambda t, theta: 1.0, 300)[:, 0])
    alternating = np.diff(descent_path(overrides, lambda t, theta: (-1.0) ** t, 300)[:, 0])
    assert -steady[-1] == pytest.approx(0.01 / (1 - 0.9))
    assert abs(alternating[-1]) == pytest.approx(0.01 / (1 + 0.9))


# ---- AdaGrad and RMSProp ------------------------------------------------------------------------------------------


@pytest.mark.req("O4")
def test_adagrad_gives_rare_features_larger_steps(descent_path: Descend) -> None:
    """After n equal gradients a weight has moved by η Σ 1/√i, for any size of the gradient; the weight of a rare feature moves
    more at each occurrence than that of a frequent feature at the same step.
    """

    def gradient(t: int, theta: np.ndarray) -> np.ndarray:
        rare = t % 10 == 0
        return np.array([1.0, 1.0 * rare, 100.0 * rare])

    path = descent_path("optimizer=adagrad", gradient, 100, np.zeros(3))
    sums = [sum(i**-0.5 for i in range(1, n + 1)) for n in (100, 10, 10)]
    np.testing.assert_allclose(-path[-1], 0.05 * np.array(sums))
    final = path[-2] - path[-1]
    assert final[1] == pytest.approx(math.sqrt(10) * final[0])


@pytest.mark.req("O4")
def test_adagrad_learns_sparse_features_faster_than_sgd(descent_path: Descend) -> None:
    """Logistic regression in which feature i is present with probability 2^-i: SGD at its best rate has a much higher loss."""
    random = np.random.default_rng(0)
    present = (random.random((1000, 8)) < 2.0 ** -np.arange(8)).astype(float)
    true_weights = 3.0 * (-1.0) ** np.arange(8)
    labels = random.random(1000) < 1 / (1 + np.exp(-present @ true_weights))

    def loss(theta: np.ndarray) -> float:
        margins = (2 * labels - 1) * (present @ theta)
        return float(np.logaddexp(0, -margins).mean())

    def gradient(t: int, theta: np.ndarray) -> np.ndarray:
        x, y = present[t - 1], labels[t - 1]
        return x * (1 / (1 + math.exp(-x @ theta)) - y)

    def best(name: str) -> float:
        rates = (0.1, 0.3, 1.0, 3.0)
        return min(
            loss(descent_path(f"optimizer={name} optimizer.lr={r}", gradient, 1000, np.zeros(8))[-1]) for r in rates
        )

    optimum = min(loss(scale * true_weights) for scale in np.linspace(0.5, 1.5, 11))
    assert best("adagrad") - optimum < 0.5 * (best("sgd") - optimum)


@pytest.mark.req("O4")
@pytest.mark.parametrize("steps", [100, 400, 1600])
def test_adagrad_regret_is_within_its_bound(descent_path: Descend, steps: int) -> None:
    """Σ f_t(θ_t) - min Σ f_t ≤ (D²/2η + η)·√Σg², which is O(√T) (Duchi, Hazan and Singer 2011, theorem 5);
    f_t(θ) = |θ - z_t| with random z_t of ±1, so that every |g| is 1 and the best fixed θ has a loss of about T.
    """
    targets = np.random.default_rng(0).choice([-1.0, 1.0], size=steps + 1)
    path = descent_path("optimizer=adagrad", lambda t, theta: np.sign(theta - targets[t]), steps, 0.5)[:, 0]
    loss_sum = np.abs(path[:-1] - targets[1:]).sum()
    best, fixed = min((np.abs(theta - targets[1:]).sum(), theta) for theta in (-1.0, 1.0))
    max_distance = np.abs(path - fixed).max()
    bound = (max_distance**2 / (2 * 0.05) + 0.05) * math.sqrt(steps)
    assert loss_sum - best <= bound


@pytest.mark.req("O4")
@pytest.mark.req("O5")
def test_adagrad_steps_vanish_and_rmsprop_steps_do_not(descent_path: Descend) -> None:
    """Under a steady gradient AdaGrad's t-th step is η/√t; RMSProp's tends to η."""
    adagrad = -np.diff(descent_path("optimizer=adagrad", lambda t, theta: 5.0, 1000)[:, 0])
    rmsprop = -np.diff(descent_path("optimizer=rmsprop", lambda t, theta: 5.0, 1000)[:, 0])
    np.testing.assert_allclose(adagrad, 0.05 / np.sqrt(np.arange(1, 1001)), rtol=1e-7)
    assert rmsprop[-1] == pytest.approx(1e-3)


@pytest.mark.req("O5")
def test_rmsprop_forgets_old_gradients(descent_path: Descend) -> None:
    """After the gradient becomes a hundred times smaller, RMSProp regains the full step after some 1/(1-ρ) steps, AdaGrad
    never.
    """
    gradient = lambda t, theta: 100.0 if t <= 50 else 1.0  # noqa: E731
    rmsprop = -np.diff(descent_path("optimizer=rmsprop", gradient, 200)[:, 0])
    adagrad = -np.diff(descent_path("optimizer=adagrad", gradient, 200)[:, 0])
    assert rmsprop[-1] == pytest.approx(1e-3, rel=0.01)
    assert adagrad[-1] < 0.01 * adagrad[0]


@pytest.mark.req("O5")
@pytest.mark.req("O6")
@pytest.mark.parametrize("name", ["rmsprop", "rmsprop_textbook", "adagrad", "adam", "adamax"])
def test_adaptive_steps_do_not_depend_on_the_scale_of_coordinates(descent_path: Descend, name: str) -> None:
    """Multiplying every gradient by a diagonal D does not change the path, as far as ε is negligible."""
    gradients = np.random.default_rng(0).normal(size=(101, 6))
    overrides = f"optimizer={name} optimizer.eps=1e-30"
    plain = descent_path(overrides, lambda t, theta: gradients[t], 100, np.zeros(6))
    scaled = descent_path(overrides, lambda t, theta: SCALES * gradients[t], 100, np.zeros(6))
    np.testing.assert_allclose(scaled, plain, rtol=1e-9)
    sgd = descent_path("optimizer=sgd", lambda t, theta: SCALES * gradients[t], 100, np.zeros(6))
    assert not np.allclose(sgd, sgd[:, :1])


# ---- Adam and its variants ----------------------------------------------------------------------------------------


@pytest.mark.req("O6")
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_first_step_with_bias_correction_is_eta_times_the_sign(descent_path: Descend, name: str) -> None:
    """Without the correction it would be (1-β1)/√(1-β2) = 3.2 times η."""
    gradient = SCALES * (-1.0) ** np.arange(6)
    overrides = f"optimizer={name} regularization.weight_decay=0.0"
    first = descent_path(overrides, lambda t, theta: gradient, 1, np.zeros(6))[1]
    np.testing.assert_allclose(first, -1e-3 * np.sign(gradient), rtol=1e-4)


@pytest.mark.req("O7")
@pytest.mark.req("G1")
def test_decoupled_decay_does_not_depend_on_the_gradient(descent_path: Descend) -> None:
    """AdamW shrinks every weight by (1 - ηλ) per step; with Adam the same λ has little effect if the gradient is large."""
    gradients = np.random.default_rng(0).normal(size=(101, 6))
    final = {}
    for name in ("adam", "adamw"):
        for decay in (0.0, 0.5):
            overrides = f"optimizer={name} optimizer.eps=1e-30 regularization.weight_decay={decay}"
            final[name, decay] = descent_path(overrides, lambda t, theta: SCALES * gradients[t], 100, np.ones(6))[-1]
    shrunk = final["adamw", 0.0] - final["adamw", 0.5]
    np.testing.assert_allclose(shrunk, 1 - (1 - 1e-3 * 0.5) ** 100, rtol=0.12)
    coupled = np.abs(final["adam", 0.0] - final["adam", 0.5])
    assert coupled[0] > 10 * coupled[-1], "a large gradient cancels the coupled decay"


@pytest.mark.req("O7")
@pytest.mark.req("G1")
@pytest.mark.parametrize(
    "overrides",
    [
        "optimizer=sgd",
        "optimizer=adamw",
        "optimizer=radam optimizer.decoupled_weight_decay=true",
        "optimizer=nadam optimizer.decoupled_weight_decay=true",
        "optimizer=adabound optimizer.weight_decouple=true",
        "optimizer=lion",
    ],
)
def test_weights_without_gradient_shrink_by_one_minus_eta_lambda(descent_path: Descend, overrides: str) -> None:
    """θ_t = (1 - ηλ)^t θ_0 (textbook, Weight Decay Interpretation)."""
    path = descent_path(
        f"{overrides} optimizer.lr=0.1 regularization.weight_decay=0.2", lambda t, theta: 0.0, 50, SCALES
    )
    np.testing.assert_allclose(path, (1 - 0.1 * 0.2) ** np.arange(51)[:, None] * SCALES)


@pytest.mark.req("O8")
def test_radam_rectifies_from_the_sixth_step(descent_path: Descend) -> None:
    """The first five steps are those of bias-corrected momentum, proportional to the gradient; later ones have the length
    r_t·η, where r_t rises to 1.
    """
    steps = -np.diff(descent_path("optimizer=radam", lambda t, theta: SCALES, 6000, np.zeros(6)), axis=0)
    np.testing.assert_allclose(steps[:5], 1e-3 * np.tile(SCALES, (5, 1)))
    rectification = steps[5:, -1] / 1e-3
    assert (np.diff(rectification) > 0).all() and rectification[0] < 0.05 and 0.98 < rectification[-1] < 1
    np.testing.assert_allclose(steps[5:], np.tile(steps[5:, -1:], (1, 6)), rtol=1e-3)


@pytest.mark.req("O9")
def test_adabound_starts_as_adam_and_ends_as_sgd(descent_path: Descend) -> None:
    """Within its bounds the first step is Adam's; finally the rate is final_lr for any size of the gradient, and the step is
    that of SGD, proportional to the gradient.
    """
    gradient = lambda t, theta: SCALES  # noqa: E731
    adabound = -np.diff(descent_path("optimizer=adabound optimizer.gamma=1", gradient, 2000, np.zeros(6)), axis=0)
    adam = -np.diff(descent_path("optimizer=adam", gradient, 1, np.zeros(6)), axis=0)
    assert adabound[0, 2] == pytest.approx(adam[0, 2], rel=1e-4)
    np.testing.assert_allclose(adabound[-1], 0.1 * SCALES, rtol=1e-3)
    rates = adabound / SCALES
    spread = np.ptp(rates, axis=1)
    assert (np.diff(spread[100:]) < 0).all(), "the bounds converge"
