"""The multi-layer perceptron from scratch against autograd: derivatives, gradients, and whole training runs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from src.core.data_spec import DataSpec
from src.layers.activations import ACTIVATIONS, make_activation
from src.models.mlp import MLP
from src.models.mlp_scratch import ACTIVATION_DERIVATIVES, MlpScratch
from src.training.inference import load
from src.training.run import run

OverridesFactory = Callable[..., list[str]]

TARGETS: dict[str, tuple[tuple[int, ...], Callable[[], Tensor]]] = {
    "classification": ((5,), lambda: torch.randint(5, (7,))),
    "binary_classification": ((), lambda: torch.randint(2, (7,)).double()),
    "regression": ((2,), lambda: torch.randn(7, 2, dtype=torch.float64)),
    "forecasting": ((3, 2), lambda: torch.randn(7, 3, 2, dtype=torch.float64)),
}


def scratch_and_reference(task: str, hidden_sizes: tuple[int, ...], activation: str) -> tuple[MlpScratch, MLP]:
    """Return both models from the same seed, with nonzero biases."""
    spec = DataSpec(task, "image", (1, 3, 4), TARGETS[task][0])
    torch.manual_seed(0)
    scratch = MlpScratch(spec, hidden_sizes, activation, "torch").double()
    torch.manual_seed(0)
    reference = MLP(spec, hidden_sizes, activation, "torch").double()
    return scratch, reference


@pytest.mark.req("M3")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_derivatives_equal_central_differences(name: str) -> None:
    """The grid avoids zero, where relu and similar functions have a kink."""
    z = torch.linspace(-5, 5, 102, dtype=torch.float64)
    g, h = make_activation(name), 1e-6
    slope = (g(z + h) - g(z - h)) / (2 * h)
    torch.testing.assert_close(ACTIVATION_DERIVATIVES[name](z, g(z)), slope, rtol=0, atol=1e-9)


@pytest.mark.req("M3")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivative_at_zero_equals_autograd(name: str) -> None:
    """At a kink, as of relu, any subgradient is correct; equal training runs need the same one as autograd."""
    z = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    a = make_activation(name)(z)
    a.backward()
    torch.testing.assert_close(ACTIVATION_DERIVATIVES[name](z.detach(), a.detach()), z.grad, rtol=0, atol=1e-12)


@pytest.mark.req("M3")
@pytest.mark.parametrize("hidden_sizes", [(), (6,), (6, 5, 4)])
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(
    ("task", "smoothing"),
    [(task, 0.0) for task in TARGETS] + [("classification", 0.1), ("binary_classification", 0.1)],
)
def test_gradients_equal_autograd(task: str, smoothing: float, name: str, hidden_sizes: tuple[int, ...]) -> None:
    scratch, reference = scratch_and_reference(task, hidden_sizes, name)
    inputs = torch.randn(7, 1, 3, 4, dtype=torch.float64).mul(2)
    targets, weights = TARGETS[task][1](), torch.rand(7, dtype=torch.float64)
    results = []
    for model in (scratch, reference):
        x = inputs.clone().requires_grad_()
        losses = model.losses(model(x), targets, smoothing)
        (weights * losses).mean().backward()  # every example has a different weight
        results.append([losses, x.grad, *(parameter.grad for parameter in model.parameters())])
    assert len(results[0]) == 2 + 2 * (len(hidden_sizes) + 1)
    for own, autograd in zip(*results, strict=True):
        torch.testing.assert_close(own, autograd, rtol=0, atol=1e-12)


@pytest.mark.req("M3")
def test_autograd_differentiates_neither_the_network_nor_the_loss() -> None:
    """The graph has only the two functions with their own derivatives, and the mean and the reshaping around them."""
    scratch, _ = scratch_and_reference("classification", (6, 5), "tanh")
    x = torch.randn(7, 1, 3, 4, dtype=torch.float64)
    loss = scratch.losses(scratch(x), torch.randint(5, (7,)), 0.1).mean()
    nodes, names = [loss.grad_fn], []
    while nodes:
        node = nodes.pop()
        names.append(type(node).__name__)
        nodes += [parent for parent, _ in node.next_functions if parent is not None]
    assert names[:4] == ["MeanBackward0", "_LossesBackward", "ViewBackward0", "_NetworkBackward"]
    assert names[4:] == ["AccumulateGrad"] * 6


@pytest.mark.req("M3")
@pytest.mark.parametrize("hidden_sizes", [(), (6, 5)])
def test_parameters_are_those_of_the_mlp(hidden_sizes: tuple[int, ...]) -> None:
    scratch, reference = scratch_and_reference("regression", hidden_sizes, "tanh")
    own, theirs = scratch.state_dict(), reference.state_dict()
    assert list(own) == list(theirs)
    assert all(torch.equal(own[name], theirs[name]) for name in own)


RUNS = [
    ["optimizer=sgd", "optimizer.lr=0.1"],
    ["optimizer=adam"],
    ["optimizer=momentum", "scheduler=cosine", "scheduler.warmup_steps=5", "regularization=[gradient_clipping,l2]"],
    ["regularization=[label_smoothing,mixup]", "trainer.accumulate_grad_batches=3", "model.activation=gelu"],
    ["datamodule=breast_cancer", "regularization=[label_smoothing,gradient_value_clipping]", "model.activation=relu"],
    [
        "datamodule=diabetes",
        "regularization=mixup",
        "scheduler=plateau",
        "scheduler.patience=0",
        "model.activation=elu",
    ],
]


@pytest.mark.req("M3")
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(overrides, marks=[] if overrides in RUNS[:2] else pytest.mark.slow, id=overrides[0])
        for overrides in RUNS
    ],
)
def test_training_run_ends_with_the_weights_of_the_mlp(fast: OverridesFactory, overrides: list[str]) -> None:
    long = ["trainer.precision=64-true", "trainer.max_epochs=4", "trainer.limit_train_batches=15"]
    results = []
    for model in ("mlp_scratch", "mlp"):
        result = run(fast(f"model={model}", *overrides, *long), verbose=False)
        last = torch.load(result.folder / "checkpoints" / "last.ckpt", weights_only=True)
        results.append((last["state_dict"], {name: result.metrics[name] for name in ("train/loss", "val/loss", "lr")}))
    (own, metrics), (theirs, expected) = results
    assert metrics == pytest.approx(expected, rel=1e-10)
    for name, weight in theirs.items():
        torch.testing.assert_close(own[name], weight, rtol=0, atol=1e-10)


@pytest.mark.req("M3")
def test_checkpoint_loads_into_either_model(fast: OverridesFactory) -> None:
    result = run(fast("model=mlp_scratch"), verbose=False)
    trained = load(result.folder).model
    other = MLP(trained.spec, trained.training_config.model.hidden_sizes)
    other.load_state_dict(trained.state_dict())
    x = torch.randn(3, *trained.spec.input_shape)
    torch.testing.assert_close(trained(x), other.eval()(x))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_lower_precisions_train(fast: OverridesFactory, precision: str) -> None:
    loss = [
        run(fast(f"model={name}", f"trainer.precision={precision}", "trainer.max_epochs=3"), verbose=False).value
        for name in ("mlp_scratch", "mlp")
    ]
    assert loss[0] == pytest.approx(loss[1], rel=0.02)
