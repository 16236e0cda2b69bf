"""Mixup and CutMix: the mixed input, the exact label, the distribution of λ."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from src.config.compose import compose
from src.config.schema.run import Config
from src.config.validate import check
from src.core.batches import LabelledBatch, SequenceBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.regularization import mixup_cutmix as mixing_module
from src.regularization.batch_transform import batch_transform
from src.regularization.mixup_cutmix import Mixing, cutmix, draw_share, mixup
from src.tasks.factory import build_task
from src.training.run import run

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
    """Return images in which each pixel value encodes the image and the position."""
    image = torch.arange(size).reshape(-1, 1, 1, 1) * 1000.0
    position = torch.arange(2 * 6 * 9).reshape(1, 2, 6, 9)
    return LabelledBatch(image + position, torch.arange(size) % 5)


def transform_of(config: Config, spec: DataSpec = IMAGES) -> Callable[..., Any]:
    transform = batch_transform(config, spec)
    assert transform is not None
    return transform


@pytest.mark.req("G5")
@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_share_is_beta_distributed(alpha: float) -> None:
    """By the Kolmogorov-Smirnov test, which distinguishes Beta(α, α) from one with another α."""
    shares = [draw_share(alpha) for _ in range(4000)]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert stats.kstest(shares, stats.beta(1.5 * alpha, 1.5 * alpha).cdf).pvalue < 1e-6


@pytest.mark.req("G5")
def test_cutmix_area_is_beta_distributed() -> None:
    """The rectangle has (1 - λ) of the area before it is clipped at the border, here of a large image, and a uniform center.
    λ accounts for the clipped area, so that labels are exact.
    """
    batch = LabelledBatch(torch.zeros(2, 1, 200, 200), torch.zeros(2))
    shares, intervals = [], []
    original = mixing_module._clipped_interval

    def clipped(center: float, length: float, end: int) -> tuple[int, int]:
        intervals.append((center, length))
        return original(center, length, end)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixing_module, "_clipped_interval", clipped)
        shares = [cutmix(batch, 1.0)[1].share for _ in range(2000)]
    areas = [(intervals[i][1] * intervals[i + 1][1]) / 200**2 for i in range(0, len(intervals), 2)]
    assert stats.kstest([1 - area for area in areas], stats.uniform.cdf).pvalue > 1e-3
    assert stats.kstest([center / 200 for center, _ in intervals], stats.uniform.cdf).pvalue > 1e-3
    centers = [center for center, _ in intervals]
    assert stats.pearsonr(centers[::2], centers[1::2]).pvalue > 1e-3, "row and column are independent"
    assert all(share >= 1 - area - 0.02 for share, area in zip(shares, areas, strict=True)), "0.02: whole pixels"


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
def test_mixup_preserves_the_mean_input() -> None:
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
        unchanged = mixed.x == batch.x
        from_partner = mixed.x == batch.x[mixing.partner]
        assert (unchanged | from_partner).all()
        pasted = ~unchanged[mixing.partner != torch.arange(8)]
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
def test_regression_targets_are_blended(plain: Config) -> None:
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
def test_mixup_and_cutmix_alternate_at_random(plain: Config) -> None:
    transform = transform_of(with_knobs(plain, mixup_alpha=1.0, cutmix_alpha=1.0))
    batch = images()
    cut = 0
    for _ in range(200):
        mixed, mixing = transform(batch)
        cut += bool(((mixed.x == batch.x) | (mixed.x == batch.x[mixing.partner])).all())
    assert 70 < cut < 130


def test_transform_does_not_change_its_input(plain: Config) -> None:
    batch = images()
    before = copy.deepcopy(batch)
    transform_of(with_knobs(plain, mixup_alpha=1.0, cutmix_alpha=1.0))(batch)
    assert torch.equal(batch.x, before.x) and torch.equal(batch.y, before.y)


def test_no_transform_without_augmentation_and_mixing(plain: Config) -> None:
    assert batch_transform(plain, IMAGES) is None


def test_data_that_cannot_be_mixed_are_rejected(plain: Config) -> None:
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


@pytest.mark.req("G5")
@pytest.mark.parametrize("knob", ["mixup_alpha=0.4", "cutmix_alpha=1.0", "augmentation.rotation=20"])
def test_only_training_batches_are_transformed(
    fast: Callable[..., list[str]], knob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation and test use the original data. Training computes only the loss of the mixed labels: an accuracy on mixed
    images is meaningless, and `python -m src.evaluate RUN split=train` computes it on the original ones.
    """
    from src.models.base import Model

    evaluated: list[tuple[str, LabelledBatch]] = []
    original = Model.training_step, Model._evaluation_step

    def training_step(model: Model, batch: Any, batch_idx: int) -> Tensor:
        changed, transform = [], model.batch_transform
        assert transform is not None

        def record_transform(batch: Any) -> Any:
            changed.append(transform(batch))
            return changed[-1]

        model.batch_transform = record_transform
        loss = original[0](model, batch, batch_idx)
        model.batch_transform = transform
        (new, mixing), task = changed[0], model.task
        assert not torch.equal(new.x, batch.x) and torch.equal(new.y, batch.y)
        losses = task.losses(model(new.x), new.y, 0.1)
        if mixing is not None:
            label = mixing.blend(*(F.one_hot(y, 10).float() for y in (batch.y, batch.y[mixing.partner])))
            losses = -((0.9 * label + 0.01) * model(new.x).log_softmax(1)).sum(1)
        torch.testing.assert_close(loss, losses.mean())
        return loss

    def evaluation_step(model: Model, split: str, batch: Any) -> None:
        evaluated.append((split, batch))
        original[1](model, split, batch)

    monkeypatch.setattr(Model, "training_step", training_step)
    monkeypatch.setattr(Model, "_evaluation_step", evaluation_step)
    result = run(fast("model=cnn", f"regularization.{knob}", "regularization.label_smoothing=0.1"), verbose=False)
    assert {name for name in result.metrics if name.startswith("train/")} == {"train/loss"}
    from src.training.inference import load

    data = load(result.folder).datamodule
    for split in ("val", "test"):
        x = torch.cat([batch.x for name, batch in evaluated if name == split])
        assert torch.equal(x, data.split(split).x[: len(x)])
