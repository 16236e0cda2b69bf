"""Every image augmentation does what its name and number say, for each image apart."""

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
FULL = {"rotation": 90.0, "translate": 0.25, "scale": 0.5, "shear": 30.0, "crop": 2, "rand_augment": 15, "noise": 0.3}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def spots(count: int = 64, channels: int = 1, ground: float = -2.0) -> Tensor:
    """Standardised images 16×16: a bright block, off the middle, on a flat ground that is not 0."""
    x = torch.full((count, channels, 16, 16), ground)
    x[:, :, 4:8, 3:9] = 3.0
    return x


def augmented(x: Tensor, **strengths: float) -> Tensor:
    return ImageAugmentation(strengths, tuple(x.shape[1:]))(x)


def distinct(x: Tensor) -> int:
    return len({tuple(image.flatten().tolist()) for image in x})


def middles(x: Tensor, ground: float = -2.0) -> Tensor:
    """Centres of mass above the ground [B, 2], as (row, column)."""
    mass = (x - ground).sum(1)
    rows = (mass.sum(2) * torch.arange(16.0)).sum(1)
    columns = (mass.sum(1) * torch.arange(16.0)).sum(1)
    return torch.stack([rows, columns], 1) / mass.sum((1, 2)).unsqueeze(1)


@pytest.mark.req("G6")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_each_changes_images_and_keeps_their_form(name: str, channels: int) -> None:
    x = spots(channels=channels) + 0.1 * torch.randn(64, channels, 16, 16)
    augment = ImageAugmentation({name: FULL.get(name, 1.0)}, (channels, 16, 16))
    results = [augment(x) for _ in range(3)]
    for y in results:
        assert y.shape == x.shape and y.dtype == x.dtype
        assert torch.isfinite(y).all()
    assert any((y - x).abs().max() > 0.05 for y in results)
    torch.manual_seed(0)
    spots(channels=channels) + 0.1 * torch.randn(64, channels, 16, 16)
    again = ImageAugmentation({name: FULL.get(name, 1.0)}, (channels, 16, 16))(x)
    assert torch.equal(again, results[0]), "the seed decides"


@pytest.mark.req("G6")
@pytest.mark.parametrize("name", ["rotation", "translate", "scale", "shear", "crop", "colour_jitter", "noise"])
def test_each_image_is_changed_apart(name: str) -> None:
    same = torch.randn(1, 1, 16, 16).expand(64, -1, -1, -1)
    assert distinct(augmented(same, **{name: FULL.get(name, 1.0)})) > (15 if name == "crop" else 55)


@pytest.mark.req("G6")
@pytest.mark.parametrize("name", ["rotation", "translate", "scale", "shear", "crop"])
def test_the_background_moves_in_and_not_grey(name: str) -> None:
    corners = augmented(spots(), **{name: 0.2 if name == "translate" else FULL[name]})[
        :, :, [0, 0, -1, -1], [0, -1, 0, -1]
    ]
    assert torch.allclose(corners, torch.tensor(-2.0), atol=1e-3)


@pytest.mark.req("G6")
def test_rotation_turns_about_the_middle_within_its_degrees() -> None:
    before, after = (middles(x) - 7.5 for x in (spots(), augmented(spots(), rotation=30.0)))
    angles = torch.atan2(*after.T) - torch.atan2(*before.T)
    assert angles.abs().max() <= math.radians(30.5)
    assert angles.min() < math.radians(-20) and angles.max() > math.radians(20)
    assert torch.allclose(after.norm(dim=1), before.norm(dim=1), atol=0.15)


def drawn(x: Tensor, **strengths: float) -> tuple[np.ndarray[Any, Any], dict[str, np.ndarray[Any, Any]]]:
    """Return augmented images [B, C, H, W] and the numbers that kornia drew for each of them."""
    augment = ImageAugmentation(strengths, tuple(x.shape[1:]))
    y = augment(x).numpy()
    step: Any = augment.steps[0]
    parameters = (step.transform if isinstance(step, InUnitRange) else step)._params
    return y, {name: value.numpy() for name, value in parameters.items()}


@pytest.mark.req("G6")
def test_rotation_is_that_of_scipy() -> None:
    x = torch.randn(16, 1, 9, 12)
    y, numbers = drawn(x, rotation=50.0)
    assert np.ptp(numbers["angle"]) > 60
    for image, turned, degrees in zip(x.numpy(), y, numbers["angle"], strict=True):  # kornia's turn clockwise
        expected = ndimage.rotate(image[0], -degrees, reshape=False, order=1, mode="nearest")
        np.testing.assert_allclose(turned[0], expected, atol=1e-4)


@pytest.mark.req("G6")
def test_scale_translation_and_shear_are_the_affine_map_of_scipy() -> None:
    """p' = c + t + s R (p - c) with the middle c and, in front of it all, a shear x' = x - tan(φ)·y along the rows."""
    x = torch.randn(16, 1, 9, 12)
    y, numbers = drawn(x, rotation=30.0, translate=0.2, scale=0.4, shear=20.0)
    middle = np.array([5.5, 4.0])  # (x, y)
    for i, (image, moved) in enumerate(zip(x.numpy(), y, strict=True)):
        angle, shear = np.radians([numbers["angle"][i], numbers["shear_x"][i]])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        forward = numbers["scale"][i][0] * turn @ np.array([[1, -np.tan(shear)], [0, 1]])
        back = np.linalg.inv(forward)[::-1, ::-1]  # scipy wants (row, column), from the output to the input
        offset = middle[::-1] - back @ (middle + numbers["translations"][i])[::-1]
        expected = ndimage.affine_transform(image[0], back, offset, order=1, mode="nearest")
        np.testing.assert_allclose(moved[0], expected, atol=1e-4)
        assert (abs(numbers["translations"][i]) <= [0.2 * 12, 0.2 * 9]).all()
        assert 0.6 <= numbers["scale"][i][0] == numbers["scale"][i][1] <= 1.4


@pytest.mark.req("G6")
@pytest.mark.parametrize("name", ["crop", "rotation"])
def test_mixed_precision_moves_no_value(name: str) -> None:
    images, strength = torch.randn(16, 1, 28, 28), 3.0
    torch.manual_seed(0)
    expected = augmented(images, **{name: strength})
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augmented(images, **{name: strength}), expected)
    torch.manual_seed(0)
    narrow = augmented(images.bfloat16(), **{name: strength})
    assert narrow.dtype is torch.bfloat16
    torch.testing.assert_close(narrow.float(), expected, rtol=0.01, atol=0.05)


@pytest.mark.req("G6")
def test_a_crop_is_a_window_of_the_image_with_its_border_repeated() -> None:
    x = torch.randn(32, 2, 9, 12)
    y, seen = augmented(x, crop=3).numpy(), set()
    for image, cut in zip(x.numpy(), y, strict=True):
        wide = np.pad(image, ((0, 0), (3, 3), (3, 3)), mode="edge")
        fits = [
            (top, left)
            for top in range(7)
            for left in range(7)
            if np.allclose(wide[:, top : top + 9, left : left + 12], cut, atol=1e-4)
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 15


@pytest.mark.req("G6")
@pytest.mark.parametrize("channels", [1, 3])
def test_colour_jitter_is_its_formulas(channels: int) -> None:
    """In the order drawn: b·x for brightness, c·x + (1 - c)·mean of the luma for contrast, s·x + (1 - s)·luma for
    saturation, each cut off at 0 and 1; and the standard library's hue, shifted.
    """
    x = torch.rand(24, channels, 5, 4, dtype=torch.float64)
    x[0, :, 0, 0], x[0, :, 0, 1] = 0.0, 1.0  # the range of the batch is known
    y, numbers = drawn(x, colour_jitter=0.4)
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
    shifts = middles(augmented(spots(), translate=0.125)) - middles(spots())
    assert shifts.abs().max() <= 2.01 and shifts.abs().amax(0).min() > 1.5
    shifts = middles(augmented(spots(), crop=2)) - middles(spots())
    assert torch.allclose(shifts, shifts.round(), atol=1e-3), "whole pixels"
    assert set(shifts.round().flatten().tolist()) == {-2, -1, 0, 1, 2}
    assert distinct(shifts.round()) > 15, "rows and columns apart"


@pytest.mark.req("G6")
def test_scale_changes_the_size_within_its_share() -> None:
    area = (augmented(spots(256), scale=0.2) + 2).sum((1, 2, 3)) / (spots(256) + 2).sum((1, 2, 3))
    assert 0.8**2 - 0.03 <= area.min() < 0.75 and 1.3 < area.max() <= 1.2**2 + 0.03


@pytest.mark.req("G6")
@pytest.mark.parametrize(("name", "dimension"), [("horizontal_flip", 3), ("vertical_flip", 2)])
def test_flips_come_with_their_probability(name: str, dimension: int) -> None:
    x = spots(1000)
    y = augmented(x, **{name: 0.3})
    flipped = (y == x.flip(dimension)).flatten(1).all(1)
    kept = (y == x).flatten(1).all(1)
    assert (flipped | kept).all()
    assert float(flipped.float().mean()) == pytest.approx(0.3, abs=0.06)


@pytest.mark.req("G6")
def test_erasing_puts_the_mean_into_one_rectangle() -> None:
    x = spots(500)
    y = augmented(x, erasing=0.4)
    changed = (y != x).flatten(1).any(1)
    assert float(changed.float().mean()) == pytest.approx(0.4, abs=0.08)
    assert (y[y != x] == 0).all()


@pytest.mark.req("G6")
def test_noise_has_its_deviation() -> None:
    noise = augmented(spots(), noise=0.3) - spots()
    assert float(noise.std()) == pytest.approx(0.3, rel=0.03)
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)


@pytest.mark.req("G6")
@pytest.mark.parametrize("name", ["colour_jitter", "trivial_augment", "rand_augment", "auto_augment"])
def test_colours_stay_in_the_range_of_the_data(name: str) -> None:
    """The same change of standardised images as of the images themselves, whatever the standardisation."""
    x = torch.rand(16, 3, 16, 16)
    x[0, :, 0, 0], x[0, :, 0, 1] = 0.0, 1.0
    mean, deviation = torch.tensor([0.5, 0.2, 0.4]).reshape(3, 1, 1), torch.tensor([0.1, 0.3, 2.0]).reshape(3, 1, 1)
    results = []
    for shift, scale in ((0.0, 1.0), (mean, deviation)):
        torch.manual_seed(5)
        results.append(augmented((x - shift) / scale, **{name: FULL.get(name, 0.8)}) * scale + shift)
    assert torch.allclose(*results, atol=2e-2 if name != "colour_jitter" else 1e-5)
    assert results[0].min() >= -1e-5 and results[0].max() <= 1 + 1e-5


@pytest.mark.req("G6")
def test_a_policy_comes_with_its_probability() -> None:
    augment = ImageAugmentation({"trivial_augment": 0.3}, (1, 16, 16))
    x = torch.randn(4, 1, 16, 16)
    changed = sum(augment(x) is not x for _ in range(300))
    assert 60 < changed < 120


def test_images_of_other_channels_have_no_colours() -> None:
    with pytest.raises(UserError, match=r"augmentation.auto_augment changes colours, and images here have 4 channels"):
        ImageAugmentation({"auto_augment": 1.0}, (4, 8, 8))


def test_a_crop_leaves_something_of_the_image() -> None:
    with pytest.raises(UserError, match=r"augmentation.crop=8: images here are 8×9, .*: at most 7 pixels"):
        ImageAugmentation({"crop": 8}, (1, 8, 9))
    ImageAugmentation({"crop": 7}, (1, 8, 9))


@pytest.mark.req("G6")
def test_from_the_command_line_to_the_batch() -> None:
    config = check(compose(["model=cnn", "regularization=augmentation", "regularization.augmentation.erasing=0.5"]))
    assert config.regularization.augmentation.chosen() == {
        "rotation": 10, "translate": 0.1, "scale": 0.1, "erasing": 0.5,
    }  # fmt: skip
    transform = batch_transform(config, DataSpec("classification", "image", (1, 16, 16), (10,)))
    assert transform is not None
    batch, mixing = transform(LabelledBatch(spots(8), torch.arange(8)))
    assert mixing is None and torch.equal(batch.y, torch.arange(8))
    assert distinct(batch.x) == 8


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["regularization.augmentation.rotatio=10"], "Did you mean 'rotation'?"),
        (["regularization.augmentation.horizontal_flip=1.5"], "horizontal_flip=1.5: must be less than or equal to 1"),
        (["regularization.augmentation.crop=1.5"], "crop=1.5: must be a valid integer"),
        (["datamodule=wine", "regularization=augmentation"], "wine is a vector"),
        (
            ["regularization=trivial_augment", "regularization.augmentation.auto_augment=0.5"],
            "trivial_augment and auto_augment are policies of their own: one at a time",
        ),
    ],
)
def test_mistakes_are_told(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        check(compose(["model=mlp", *overrides]))
