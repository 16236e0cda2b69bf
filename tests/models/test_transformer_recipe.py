"""The transformer paper's training recipe: smoothed targets and schedule against their formulas in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from src.config.compose import compose
from src.config.validate import check
from src.core.data_spec import DataSpec
from src.optim.factory import build_optimization
from src.tasks.factory import build_task
from src.training.experiment import build

PADDING = 0
TRANSLATION = DataSpec(
    "translation",
    "tokens",
    (9,),
    (12,),
    vocabulary_size=15,
    padding_id=PADDING,
    start_id=1,
    end_id=2,
    target_length=8,
)
TEXT = DataSpec("language_modelling", "tokens", (10,), (12,), vocabulary_size=12)


def smoothed_cross_entropy(logits: Tensor, target: int, epsilon: float) -> tuple[float, list[float]]:
    """Return -Σ q_i log p_i with q_i = 1 - ε + ε/V at the target and ε/V elsewhere, and its gradient p - q."""
    size = len(logits)
    total = sum(math.exp(value) for value in logits.tolist())
    p = [math.exp(value) / total for value in logits.tolist()]
    q = [epsilon / size + (1 - epsilon if i == target else 0) for i in range(size)]
    assert sum(q) == pytest.approx(1)
    return -sum(b * math.log(a) for a, b in zip(p, q, strict=True)), [a - b for a, b in zip(p, q, strict=True)]


@pytest.mark.req("T4")
@pytest.mark.parametrize("spec", [TRANSLATION, TEXT], ids=["translation", "text"])
def test_smoothed_targets_are_the_formula(spec: DataSpec) -> None:
    epsilon = check(compose(["regularization=transformer_paper", "model=transformer"])).regularization.label_smoothing
    assert epsilon == 0.1
    task = build_task(spec)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 12, dtype=torch.float64, generator=generator).requires_grad_()
    targets = torch.randint(1, 12, (3, 6), generator=generator)
    targets[0, 4:] = PADDING
    losses = task.losses(logits, targets, epsilon)
    losses.sum().backward()
    assert logits.grad is not None
    for b in range(3):
        for t in range(6):
            if spec is TRANSLATION and targets[b, t] == PADDING:
                assert losses[b, t] == 0 and not logits.grad[b, t].any(), "padding has no loss and no gradient"
                continue
            expected, gradient = smoothed_cross_entropy(logits[b, t].detach(), int(targets[b, t]), epsilon)
            assert float(losses[b, t]) == pytest.approx(expected, rel=1e-12)
            assert logits.grad[b, t].tolist() == pytest.approx(gradient, rel=1e-9, abs=1e-12)


@pytest.mark.req("T4")
def test_learning_rate_of_the_paper_at_every_step(fast: Callable[..., list[str]]) -> None:
    """d_model^-0.5 · min(t^-0.5, t · 4000^-1.5) with the composed config of the recipe, over 12,000 steps."""
    paper = check(compose(["experiment=transformer_paper"]))
    assert (paper.scheduler.warmup_steps, paper.model.d_model, paper.trainer.max_steps) == (4000, 512, 100_000)  # type: ignore[attr-defined]
    assert paper.optimizer.betas == [0.9, 0.98] and paper.optimizer.eps == 1e-9  # type: ignore[attr-defined]
    assert paper.regularization.dropout == paper.regularization.label_smoothing == 0.1
    config = check(compose(fast("experiment=transformer_paper", "model.d_model=16", "model.num_layers=1")))
    experiment = build(config)
    (optimizer,), (schedule,) = build_optimization(
        experiment.model, experiment.model.spec.task, config, experiment.trainer
    )
    scheduler = schedule["scheduler"]
    rates = []
    for _ in range(12_000):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    expected = [16**-0.5 * min(t**-0.5, t * 4000**-1.5) for t in range(1, 12_001)]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert max(rates) == rates[3999]
