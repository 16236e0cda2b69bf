"""Mixup and CutMix: the mixed input, the exact label, the distribution of λ."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from src.batches import LabelledBatch, SequenceBatch
from src.config.check import check
from src.config.compose import compose
from src.config.schema import Config
from src.errors import UserError
from src.regularization.build import batch_transform
from src.regularization.mixing import Mixing, cutmix, draw_share, mixup
from src.spec import DataSpec
from src.tasks.build import build_task

IMAGES = DataSpec("classification", "image", (2, 6, 9), (5,))
VECTORS = DataSpec("classification", "vector", (7,), (5,))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def plain() -> Config:
    return check(compose(["model=mlp"]))


def with_knobs(config: Config, **knobs: object) -> Config:
    return config.model_copy(update={"regularization": config.regularization.model_copy(update=knobs)})


def images(size: int = 8) -> LabelledBatch:
    """Every pixel of an image tells whose it is and where."""
    owner = torch.arange(size).reshape(-1, 1, 1, 1) * 1000.0
    place = torch.arange(2 * 6 * 9).reshape(1, 2, 6, 9)
    return LabelledBatch(owner + place, torch.arange(size) % 5)


def transform_of(config: Config, spec: DataSpec = IMAGES) -> Callable[..., Any]:
    found = batch_transform(config, spec)
    assert found is not None
    return found


@pytest.mark.req("G5")
@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_share_is_beta_distributed(alpha: float) -> None:
    """Mean ½, variance 1/(4(2α + 1)), and for α = 1 uniform."""
    shares = torch.tensor([draw_share(alpha) for _ in range(4000)], dtype=torch.float64)
    deviation = math.sqrt(1 / (4 * (2 * alpha + 1)))
    assert float(shares.mean()) == pytest.approx(0.5, abs=4 * deviation / math.sqrt(len(shares)))
    assert float(shares.var()) == pytest.approx(deviation**2, rel=0.1)
    if alpha == 1:
        quantiles = torch.quantile(shares, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
        assert quantiles.tolist() == pytest.approx([0.1, 0.5, 0.9], abs=0.03)


@pytest.mark.req("G5")
def test_mixup_is_the_convex_combination() -> None:
    batch = LabelledBatch(torch.randn(8, 7), torch.arange(8) % 5)
    mixed, mixing = mixup(batch, 1.0)
    partner = mixing.partner.tolist()
    assert sorted(partner) == list(range(8))
    for i, j in enumerate(partner):
        assert torch.allclose(mixed.x[i], mixing.share * batch.x[i] + (1 - mixing.share) * batch.x[j])
    assert torch.equal(mixed.y, batch.y)


@pytest.mark.req("G5")
def test_mixup_keeps_the_expected_input() -> None:
    """Over many draws, the mean of the mixed inputs is that of the inputs, since the partners are a permutation."""
    batch = LabelledBatch(torch.randn(8, 7, dtype=torch.float64), torch.arange(8))
    for _ in range(5):
        assert torch.allclose(mixup(batch, 0.4)[0].x.mean(0), batch.x.mean(0))


@pytest.mark.req("G5")
def test_cutmix_pastes_one_rectangle_and_counts_it_exactly() -> None:
    batch = images()
    kinds = set()
    for _ in range(60):
        mixed, mixing = cutmix(batch, 1.0)
        own = mixed.x == batch.x
        other = mixed.x == batch.x[mixing.partner]
        assert (own | other).all()
        pasted = ~own[mixing.partner != torch.arange(8)]
        if not pasted.numel() or not pasted.any():
            assert mixing.share == 1 or not pasted.numel()
            continue
        first = pasted[0, 0]
        assert (pasted == first).all(), "the same rectangle in every image and channel"
        rows, columns = first.any(1).nonzero().flatten(), first.any(0).nonzero().flatten()
        assert first[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
        assert mixing.share == pytest.approx(1 - first.sum().item() / 54, abs=1e-12)
        kinds.add((len(rows), len(columns)))
    assert len(kinds) > 10


@pytest.mark.req("G5")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("task", ["classification", "binary_classification"])
def test_blended_losses_are_the_loss_of_the_blended_label(task: str, smoothing: float) -> None:
    classes = 5 if task == "classification" else 2
    spec = DataSpec(task, "vector", (7,), (5,) if classes == 5 else ())
    logits = torch.randn(8, *spec.output_shape, dtype=torch.float64)
    y = torch.randint(classes, (8,))
    targets = y if classes == 5 else y.double()
    mixing = Mixing(torch.randperm(8), 0.3)
    losses = build_task(spec).losses
    blended = mixing.blend(losses(logits, targets, smoothing), losses(logits, targets[mixing.partner], smoothing))

    label = 0.3 * F.one_hot(y, classes) + 0.7 * F.one_hot(y[mixing.partner], classes)
    label = label.double() * (1 - smoothing) + smoothing / classes
    logs = logits.log_softmax(-1) if classes == 5 else torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], 1)
    assert torch.allclose(blended, -(label * logs).sum(1))


@pytest.mark.req("G5")
def test_numbers_are_blended_themselves(plain: Config) -> None:
    """Squared error is not linear in its target: the blended losses exceed the loss of the blended target by
    λ(1 - λ)(y_i - y_j)², with the same gradient.
    """
    spec = DataSpec("regression", "vector", (7,), (1,))
    batch = LabelledBatch(torch.randn(8, 7), torch.randn(8, 1))
    torch.manual_seed(1)
    mixed, mixing = transform_of(with_knobs(plain, mixup_alpha=1.0), spec)(batch)
    assert mixing is None
    torch.manual_seed(1)
    same, drawn = mixup(batch, 1.0)
    assert torch.equal(mixed.x, same.x)
    partners = batch.y[drawn.partner]
    assert torch.allclose(mixed.y, drawn.share * batch.y + (1 - drawn.share) * partners)

    losses = build_task(spec).losses
    outputs = torch.randn(8, 1, requires_grad=True)
    of_blend = losses(outputs, mixed.y)
    blend = drawn.blend(losses(outputs, batch.y), losses(outputs, partners))
    gap = drawn.share * (1 - drawn.share) * (batch.y - partners).square().flatten()
    assert torch.allclose(blend, of_blend + gap, atol=1e-6)
    gradients = [torch.autograd.grad(loss.sum(), outputs)[0] for loss in (of_blend, blend)]
    assert torch.allclose(*gradients, atol=1e-6)


@pytest.mark.req("G5")
def test_the_same_seed_mixes_the_same_way(plain: Config) -> None:
    transform = transform_of(with_knobs(plain, mixup_alpha=0.4, cutmix_alpha=1.0))
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append([transform(images())[0].x for _ in range(4)])
    same, different = (all(map(torch.equal, runs[0], other)) for other in runs[1:])
    assert same and not different


@pytest.mark.req("G5")
def test_both_together_take_turns(plain: Config) -> None:
    transform = transform_of(with_knobs(plain, mixup_alpha=1.0, cutmix_alpha=1.0))
    batch = images()
    cut = 0
    for _ in range(200):
        mixed, mixing = transform(batch)
        cut += bool(((mixed.x == batch.x) | (mixed.x == batch.x[mixing.partner])).all())
    assert 70 < cut < 130


def test_the_batch_that_was_given_stays_as_it_was(plain: Config) -> None:
    batch = images()
    before = copy.deepcopy(batch)
    transform_of(with_knobs(plain, mixup_alpha=1.0, cutmix_alpha=1.0))(batch)
    assert torch.equal(batch.x, before.x) and torch.equal(batch.y, before.y)


def test_nothing_asked_for_is_nothing_done(plain: Config) -> None:
    assert batch_transform(plain, IMAGES) is None


def test_what_cannot_be_mixed_is_refused(plain: Config) -> None:
    tokens = DataSpec("classification", "tokens", (7,), (5,), vocabulary_size=9)
    with pytest.raises(UserError, match="mixup_alpha mixes numbers"):
        batch_transform(with_knobs(plain, mixup_alpha=1.0), tokens)
    with pytest.raises(UserError, match="cutmix_alpha works on images, and one input here is a vector"):
        batch_transform(with_knobs(plain, cutmix_alpha=1.0), VECTORS)
    sequences = DataSpec("classification", "sequence", (7, 2), (5,))
    ragged: Tensor = torch.randn(3, 7, 2)
    with pytest.raises(UserError, match="lengths"):
        transform_of(with_knobs(plain, mixup_alpha=1.0), sequences)(
            SequenceBatch(ragged, torch.tensor([7, 3, 2]), torch.arange(3))
        )
