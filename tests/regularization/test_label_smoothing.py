"""Label smoothing: cross-entropy with targets 1 - ε + ε/V and ε/V against formulas in float64, for each task with classes."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from src.config.compose import compose
from src.config.validate import check
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.models.epoch_metrics import Meter
from src.tasks.factory import build_task
from src.training.build import build_data, build_model
from src.training.run import run

EPSILONS = [0.0, 0.1, 0.3]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def cross_entropy(logits: list[float], label: int, epsilon: float) -> float:
    """Return -Σ_k q_k ln p_k with q_k = (1 - ε)·[k = label] + ε/V, in plain Python."""
    largest = max(logits)
    total = math.log(sum(math.exp(z - largest) for z in logits)) + largest
    size = len(logits)
    return -sum(((1 - epsilon) * (k == label) + epsilon / size) * (z - total) for k, z in enumerate(logits))


@pytest.mark.req("G4")
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_classification(epsilon: float) -> None:
    logits, labels = 3 * torch.randn(6, 5, dtype=torch.float64), torch.randint(5, (6,))
    losses = build_task(DataSpec("classification", "vector", (2,), (5,))).losses(logits, labels, epsilon)
    expected = [cross_entropy(row, y, epsilon) for row, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.req("G4")
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_binary_classification_is_the_case_of_two_classes(epsilon: float) -> None:
    """The positive class is smoothed to 1 - ε/2: the logit z corresponds to two classes with logits 0 and z."""
    logits, labels = 3 * torch.randn(6, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0])
    losses = build_task(DataSpec("binary_classification", "vector", (2,), ())).losses(logits, labels.double(), epsilon)
    expected = [cross_entropy([0.0, z], y, epsilon) for z, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.req("G4", "T4")
@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize(("name", "padding"), [("language_modelling", None), ("translation", 0)])
def test_token_losses_ignore_padding(name: str, padding: int | None, epsilon: float) -> None:
    """Every token counts once; padding is neither in the sum nor in the number, for any prediction."""
    spec = DataSpec(name, "tokens", (4,), (7,), vocabulary_size=7, padding_id=padding, start_id=1, end_id=2)
    task = build_task(spec)
    logits = 3 * torch.randn(3, 4, 7, dtype=torch.float64)
    targets = torch.tensor([[3, 4, 2, 0], [5, 2, 0, 0], [3, 4, 6, 2]])
    losses = task.losses(logits, targets, epsilon)
    expected, count = 0.0, 0
    for b in range(3):
        for t in range(4):
            target = int(targets[b, t])
            value = 0.0 if target == padding else cross_entropy(logits[b, t].tolist(), target, epsilon)
            assert float(losses[b, t]) == pytest.approx(value, rel=1e-12)
            expected, count = expected + value, count + (target != padding)
    assert count == (12 if padding is None else 9)
    mean = Meter(task, detailed=False).add(losses, task.weights(targets))
    assert float(mean) == pytest.approx(expected / count, rel=1e-12)


@pytest.mark.req("G4")
def test_loss_is_minimal_at_the_smoothed_label() -> None:
    """Its minimum is the entropy of the label and not 0, so that a model with label smoothing is never certain."""
    task, label = build_task(DataSpec("classification", "vector", (2,), (4,))), torch.tensor([2])
    smoothed = torch.tensor([[0.025, 0.025, 0.925, 0.025]], dtype=torch.float64)
    logits: Tensor = smoothed.log().requires_grad_()
    loss = task.losses(logits, label, 0.1)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.abs().max() < 1e-15
    assert loss.item() == pytest.approx(-float((smoothed * smoothed.log()).sum()))


@pytest.mark.req("G4")
def test_training_smooths_and_evaluation_does_not() -> None:
    """val/loss of runs with and without smoothing can be compared."""
    overrides = ["model=mlp", "datamodule=wine", "regularization.label_smoothing=0.2", "trainer.log_every_n_steps=0"]
    config = check(compose(overrides))
    data = build_data(config)
    model = build_model(config, data.spec)
    batch = data.split("val")
    model._trainer = None
    outputs = model(*batch.inputs)
    plain, smoothed = (model.task.losses(outputs, batch.targets, e).mean() for e in (0.0, 0.2))
    meter = model.meters["train"] = Meter(model.task, detailed=False)
    assert torch.equal(model.training_step(batch, 0), smoothed)
    assert meter._add_up() == pytest.approx(smoothed.item() * len(batch.x), rel=1e-6)
    model.meters["val"] = Meter(model.task)
    model.validation_step(batch, 0)
    assert model.meters["val"]._add_up() == pytest.approx(plain.item() * len(batch.x), rel=1e-6)


@pytest.mark.req("G4")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothed_loss_has_no_perplexity(fast: Callable[..., list[str]], smoothing: float) -> None:
    metrics = run(
        fast("model=gru", "datamodule=text", f"regularization.label_smoothing={smoothing}"), verbose=False
    ).metrics
    assert ("train/perplexity" in metrics) == (smoothing == 0.0)
    for split in ("val", "test"):
        assert metrics[f"{split}/perplexity"] == pytest.approx(math.exp(metrics[f"{split}/loss"]), rel=1e-6)


def test_numbers_have_no_label_to_smooth() -> None:
    with pytest.raises(
        UserError, match=r"label_smoothing smooths classes, and diabetes is regression. Tasks with it: cl"
    ):
        check(compose(["datamodule=diabetes", "regularization=label_smoothing"]))
