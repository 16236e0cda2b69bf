"""Every image augmentation against its definition and its bounds, independently for each image."""

import colorsys
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from src.config.compose import compose
from src.config.schema.regularization import Augmentation
from src.config.validate import check
from src.core.batches import LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.regularization.batch_transform import batch_transform
from src.regularization.image_augmentation import ImageAugmentation, InUnitRange

NAMES = list(Augmentation.model_fields)
STRONG = {"rotation": 90.0, "translate": 0.25, "scale": 0.5, "shear": 30.0, "crop": 2, "rand_augment": 15, "noise": 0.3}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def block_images(count: int = 64, channels: int = 1, background: float = -2.0) -> Tensor:
    """Return standardised images 16×16 with a bright block, off the center, on a constant background that is not 0."""
    x = torch.full((count, channels, 16, 16), background)
    x[:, :, 4:8, 3:9] = 3.0
    return x


def augmented(x: Tensor, **strengths: float) -> Tensor:
    return ImageAugmentation(strengths, tuple(x.shape[1:]))(x)


def count_distinct(x: Tensor) -> int:
    return len({tuple(image.flatten().tolist()) for image in x})


def centers_of_mass(x: Tensor, background: float = -2.0) -> Tensor:
    """Return the centers of mass above the background [B, 2], as (row, column)."""
    mass = (x - background).sum(1)
    rows = (mass.sum(2) * torch.arange(16.0)).sum(1)
    columns = (mass.sum(1) * torch.arange(16.0)).sum(1)
    return torch.stack([rows, columns], 1) / mass.sum((1, 2)).unsqueeze(1)


@pytest.mark.req("G6")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_each_augmentation_changes_images_and_preserves_shape_and_dtype(name: str, channels: int) -> None:
    x = block_images(channels=channels) + 0.1 * torch.randn(64, channels, 16, 16)
    augment = ImageAugmentation({name: STRONG.get(name, 1.0)}, (channels, 16, 16))
    results = [augment(x) for _ in range(3)]
    for y in results:
        assert y.shape == x.shape and y.dtype == x.dtype
        assert torch.isfinite(y).all()
    assert any((y - x).abs().max() > 0.05 for y in results)
    torch.manual_seed(0)
    block_images(channels=channels) + 0.1 * torch.randn(64, channels, 16, 16)
    again = ImageAugmentation({name: STRONG.get(name, 1.0)}, (channels, 16, 16))(x)
    assert torch.equal(again, results[0]), "the seed determines the result"


@pytest.mark.req("G6")
@pytest.mark.parametrize("name", ["rotation", "translate", "scale", "shear", "crop", "colour_jitter", "noise"])
def test_each_image_is_augmented_independently(name: str) -> None:
    same = torch.randn(1, 1, 16, 16).expand(64, -1, -1, -1)
    assert count_distinct(augmented(same, **{name: STRONG.get(name, 1.0)})) > (15 if name == "crop" else 55)


@pytest.mark.req("G6")
@pytest.mark.parametrize("name", ["rotation", "translate", "scale", "shear", "crop"])
def test_new_pixels_repeat_the_border(name: str) -> None:
    corners = augmented(block_images(), **{name: 0.2 if name == "translate" else STRONG[name]})[
        :, :, [0, 0, -1, -1], [0, -1, 0, -1]
    ]
    assert torch.allclose(corners, torch.tensor(-2.0), atol=1e-3)


@pytest.mark.req("G6")
def test_rotation_is_about_the_center_within_its_degrees() -> None:
    before, after = (centers_of_mass(x) - 7.5 for x in (block_images(), augmented(block_images(), rotation=30.0)))
    angles = torch.atan2(*after.T) - torch.atan2(*before.T)
    assert angles.abs().max() <= math.radians(30.5)
    assert angles.min() < math.radians(-20) and angles.max() > math.radians(20)
    assert torch.allclose(after.norm(dim=1), before.norm(dim=1), atol=0.15)


def augmented_with_parameters(
    x: Tensor, **strengths: float
) -> tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    """Return augmented images [B, C, H, W] and the parameters that kornia sampled for each of them."""
    augment = ImageAugmentation(strengths, tuple(x.shape[1:]))
    y = augment(x).numpy()
    step: Any = augment.steps[0]
    parameters = (step.transform if isinstance(step, InUnitRange) else step)._params
    return y, {name: value.numpy() for name, value in parameters.items()}


@pytest.mark.req("G6")
def test_rotation_equals_scipy() -> None:
    x = torch.randn(16, 1, 9, 12)
    y, numbers = augmented_with_parameters(x, rotation=50.0)
    assert np.ptp(numbers["angle"]) > 60
    for image, rotated, degrees in zip(x.numpy(), y, numbers["angle"], strict=True):  # kornia's angles are clockwise
        expected = ndimage.rotate(image[0], -degrees, reshape=False, order=1, mode="nearest")
        np.testing.assert_allclose(rotated[0], expected, atol=1e-4)


@pytest.mark.req("G6")
def test_scale_translation_and_shear_equal_the_affine_map_of_scipy() -> None:
    """p' = c + t + s R (p - c) with the center c, after a shear x' = x - tan(φ)·y along the rows."""
    x = torch.randn(16, 1, 9, 12)
    y, numbers = augmented_with_parameters(x, rotation=30.0, translate=0.2, scale=0.4, shear=20.0)
    center = np.array([5.5, 4.0])  # (x, y)
    for i, (image, moved) in enumerate(zip(x.numpy(), y, strict=True)):
        angle, shear = np.radians([numbers["angle"][i], numbers["shear_x"][i]])
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        forward = numbers["scale"][i][0] * rotation @ np.array([[1, -np.tan(shear)], [0, 1]])
        inverse = np.linalg.inv(forward)[::-1, ::-1]  # scipy needs (row, column), from the output to the input
        offset = center[::-1] - inverse @ (center + numbers["translations"][i])[::-1]
        expected = ndimage.affine_transform(image[0], inverse, offset, order=1, mode="nearest")
        np.testing.assert_allclose(moved[0], expected, atol=1e-4)
        assert (abs(numbers["translations"][i]) <= [0.2 * 12, 0.2 * 9]).all()
        assert 0.6 <= numbers["scale"][i][0] == numbers["scale"][i][1] <= 1.4


@pytest.mark.req("G6")
@pytest.mark.parametrize("name", ["crop", "rotation"])
def test_mixed_precision_does_not_move_pixels(name: str) -> None:
    images, strength = torch.randn(16, 1, 28, 28), 3.0
    torch.manual_seed(0)
    expected = augmented(images, **{name: strength})
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augmented(images, **{name: strength}), expected)
    torch.manual_seed(0)
    half = augmented(images.bfloat16(), **{name: strength})
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.01, atol=0.05)


@pytest.mark.req("G6")
def test_crop_is_a_window_of_the_image_padded_with_its_border() -> None:
    x = torch.randn(32, 2, 9, 12)
    y, seen = augmented(x, crop=3).numpy(), set()
    for image, crop in zip(x.numpy(), y, strict=True):
        padded = np.pad(image, ((0, 0), (3, 3), (3, 3)), mode="edge")
        positions = [
            (top, left)
            for top in range(7)
            for left in range(7)
            if np.allclose(padded[:, top : top + 9, left : left + 12], crop, atol=1e-4)
        ]
        assert len(positions) == 1
        seen.add(positions[0])
    assert len(seen) > 15


@pytest.mark.req("G6")
@pytest.mark.parametrize("channels", [1, 3])
def test_colour_jitter_is_the_formula(channels: int) -> None:
    """In the sampled order: b·x for brightness, c·x + (1 - c)·mean of the luma for contrast, s·x + (1 - s)·luma for
    saturation, each clipped to [0, 1]; and a shift of the standard library's hue.
    """
    x = torch.rand(24, channels, 5, 4, dtype=torch.float64)
    x[0, :, 0, 0], x[0, :, 0, 1] = 0.0, 1.0  # the range of the batch is known
    y, numbers = augmented_with_parameters(x, colour_jitter=0.4)
    luma = torch.tensor([0.299, 0.587, 0.114] if channels == 3 else [1.0], dtype=torch.float64).reshape(-1, 1, 1)
    factor = {
        name: torch.as_tensor(numbers[f"{name}_factor"]).double().reshape(-1, 1, 1, 1)
        for name in ("brightness", "contrast", "saturation", "hue")
    }
    expected = x
    for step in numbers["order"].tolist():
        grey = (luma * expected).sum(1, keepdim=True)
        if step == 0:
            expected = (expected * factor["brightness"]).clamp(0, 1)
        elif step == 1:
            share, mean = factor["contrast"], grey.mean((2, 3), keepdim=True)
            expected = (share * expected + (1 - share) * mean).clamp(0, 1)
        elif step == 2 and channels == 3:
            expected = (factor["saturation"] * expected + (1 - factor["saturation"]) * grey).clamp(0, 1)
        elif step == 3 and channels == 3:
            for image, shift in zip(expected, factor["hue"].flatten().tolist(), strict=True):
                for pixel in image.flatten(1).T:  # a view: the image itself changes
                    hue, saturation, value = colorsys.rgb_to_hsv(*pixel.tolist())
                    pixel.copy_(torch.tensor(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value)))
    np.testing.assert_allclose(y, expected.numpy(), atol=1e-5)
    for name in ("brightness", "contrast"):
        assert 0.6 <= factor[name].min() < 0.75 and 1.25 < factor[name].max() <= 1.4
    assert factor["hue"].abs().max() <= 0.1


@pytest.mark.req("G6")
def test_translation_and_crop_shift_within_their_bounds() -> None:
    shifts = centers_of_mass(augmented(block_images(), translate=0.125)) - centers_of_mass(block_images())
    assert shifts.abs().max() <= 2.01 and shifts.abs().amax(0).min() > 1.5
    shifts = centers_of_mass(augmented(block_images(), crop=2)) - centers_of_mass(block_images())
    assert torch.allclose(shifts, shifts.round(), atol=1e-3), "whole pixels"
    assert set(shifts.round().flatten().tolist()) == {-2, -1, 0, 1, 2}
    assert count_distinct(shifts.round()) > 15, "rows and columns shift independently"


@pytest.mark.req("G6")
def test_scale_changes_the_size_within_its_bounds() -> None:
    area = (augmented(block_images(256), scale=0.2) + 2).sum((1, 2, 3)) / (block_images(256) + 2).sum((1, 2, 3))
    assert 0.8**2 - 0.03 <= area.min() < 0.75 and 1.3 < area.max() <= 1.2**2 + 0.03


@pytest.mark.req("G6")
@pytest.mark.parametrize(("name", "dimension"), [("horizontal_flip", 3), ("vertical_flip", 2)])
def test_flips_are_applied_with_their_probability(name: str, dimension: int) -> None:
    x = block_images(1000)
    y = augmented(x, **{name: 0.3})
    flipped = (y == x.flip(dimension)).flatten(1).all(1)
    unchanged = (y == x).flatten(1).all(1)
    assert (flipped | unchanged).all()
    assert float(flipped.float().mean()) == pytest.approx(0.3, abs=0.06)


@pytest.mark.req("G6")
def test_erasing_fills_a_rectangle_with_the_mean() -> None:
    x = block_images(500)
    y = augmented(x, erasing=0.4)
    changed = (y != x).flatten(1).any(1)
    assert float(changed.float().mean()) == pytest.approx(0.4, abs=0.08)
    assert (y[y != x] == 0).all()


@pytest.mark.req("G6")
def test_noise_has_its_standard_deviation() -> None:
    noise = augmented(block_images(), noise=0.3) - block_images()
    assert float(noise.std()) == pytest.approx(0.3, rel=0.03)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)


@pytest.mark.req("G6")
@pytest.mark.parametrize("name", ["colour_jitter", "trivial_augment", "rand_augment", "auto_augment"])
def test_colour_transforms_preserve_the_range_of_the_data(name: str) -> None:
    """The transform of standardised images equals that of the original images, for any standardisation."""
    x = torch.rand(16, 3, 16, 16)
    x[0, :, 0, 0], x[0, :, 0, 1] = 0.0, 1.0
    mean, std = torch.tensor([0.5, 0.2, 0.4]).reshape(3, 1, 1), torch.tensor([0.1, 0.3, 2.0]).reshape(3, 1, 1)
    results = []
    for shift, scale in ((0.0, 1.0), (mean, std)):
        torch.manual_seed(5)
        results.append(augmented((x - shift) / scale, **{name: STRONG.get(name, 0.8)}) * scale + shift)
    assert torch.allclose(*results, atol=2e-2 if name != "colour_jitter" else 1e-5)
    assert results[0].min() >= -1e-5 and results[0].max() <= 1 + 1e-5


@pytest.mark.req("G6")
def test_policy_is_applied_with_its_probability() -> None:
    augment = ImageAugmentation({"trivial_augment": 0.3}, (1, 16, 16))
    x = torch.randn(4, 1, 16, 16)
    changed = sum(augment(x) is not x for _ in range(300))
    assert 60 < changed < 120


def test_colour_policies_reject_images_with_other_channels() -> None:
    with pytest.raises(UserError, match=r"augmentation.auto_augment changes colours, and images here have 4 channels"):
        ImageAugmentation({"auto_augment": 1.0}, (4, 8, 8))


def test_crop_that_could_remove_the_whole_image_is_rejected() -> None:
    with pytest.raises(UserError, match=r"augmentation.crop=8: images here are 8×9, .*: at most 7 pixels"):
        ImageAugmentation({"crop": 8}, (1, 8, 9))
    ImageAugmentation({"crop": 7}, (1, 8, 9))


@pytest.mark.req("G6")
def test_config_gives_the_batch_transform() -> None:
    config = check(compose(["model=cnn", "regularization=augmentation", "regularization.augmentation.erasing=0.5"]))
    assert config.regularization.augmentation.enabled() == {
        "rotation": 10, "translate": 0.1, "scale": 0.1, "erasing": 0.5,
    }  # fmt: skip
    transform = batch_transform(config, DataSpec("classification", "image", (1, 16, 16), (10,)))
    assert transform is not None
    batch, mixing = transform(LabelledBatch(block_images(8), torch.arange(8)))
    assert mixing is None and torch.equal(batch.y, torch.arange(8))
    assert count_distinct(batch.x) == 8


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["regularization.augmentation.rotatio=10"], "Did you mean 'rotation'?"),
        (["regularization.augmentation.horizontal_flip=1.5"], "horizontal_flip=1.5: must be less than or equal to 1"),
        (["regularization.augmentation.crop=1.5"], "crop=1.5: must be a valid integer"),
        (["datamodule=wine", "regularization=augmentation"], "wine is a vector"),
        (
            ["regularization=trivial_augment", "regularization.augmentation.auto_augment=0.5"],
            "trivial_augment and auto_augment are alternative policies: use one",
        ),
    ],
)
def test_invalid_settings_are_rejected(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        check(compose(["model=mlp", *overrides]))
