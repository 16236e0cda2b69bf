import logging

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from src.core.errors import UserError
from src.datamodules.vision.digits import Digits


@pytest.fixture(scope="module")
def digits() -> Digits:
    datamodule = Digits()
    datamodule.setup()
    return datamodule


def bitmap(digit: np.ndarray, scale: int = 1) -> np.ndarray:
    """The 32×32 black-and-white bitmap that a digit was counted from, up to where in its field each bit lies."""
    fields = (np.arange(16) < digit.reshape(8, 8, 1)).reshape(8, 8, 4, 4)
    bitmap = fields.transpose(0, 2, 1, 3).reshape(32, 32)
    return np.kron(bitmap, np.ones((scale, scale))).astype(bool)


def row(digit: np.ndarray) -> str:
    return ",".join(f"{value:g}" for value in digit)


def test_pixels_are_standardised_by_the_training_split(digits):
    images = {name: digits.split(name).x.double() for name in ("train", "val", "test")}
    assert images["train"].mean() == pytest.approx(0, abs=1e-6)
    assert images["train"].std(correction=0) == pytest.approx(1, abs=1e-6)
    assert abs(images["test"].mean()) > 1e-5  # it has no part in the fit
    mean, deviation = digits.state_dict()["scale"]["mean"][0], digits.state_dict()["scale"]["deviation"][0]
    back = torch.cat(list(images.values())).flatten(1).numpy() * deviation + mean
    original = load_digits().data
    assert sorted(map(tuple, back.round().astype(int))) == sorted(map(tuple, original.astype(int)))


def test_classes_have_their_share_in_every_split(digits):
    whole = np.bincount(load_digits().target) / 1797
    for name in ("train", "val", "test"):
        shares = digits.split(name).y.bincount(minlength=10) / len(digits.split(name).y)
        assert np.abs(shares.numpy() - whole).max() < 0.005


@pytest.mark.parametrize("index", [0, 7, 100])
@pytest.mark.parametrize("kind", ["L", "RGB", "1", "I;16"])
@pytest.mark.parametrize("scale", [1, 3])
def test_an_image_is_read_as_the_data_set_was_made(digits, tmp_path, index, kind, scale):
    """The makers counted the lit pixels in each 4×4 field of a 32×32 bitmap."""
    digit = load_digits().data[index]
    lit = bitmap(digit, scale)
    if kind == "I;16":
        Image.fromarray(lit.astype(np.uint16) * 65535).save(tmp_path / "digit.png")
    else:
        Image.fromarray(lit.astype(np.uint8) * 255).convert(kind).save(tmp_path / "digit.png")
    read = digits.encode([str(tmp_path / "digit.png")])
    torch.testing.assert_close(read.x, digits.encode([row(digit)]).x, rtol=0, atol=1e-4)


def test_a_rectangular_photograph_is_resized(digits, tmp_path):
    Image.new("RGB", (60, 40), (255, 255, 255)).save(tmp_path / "white.jpg")
    mean, deviation = digits.state_dict()["scale"]["mean"][0], digits.state_dict()["scale"]["deviation"][0]
    x = digits.encode([str(tmp_path / "white.jpg")]).x
    assert x.shape == (1, 1, 8, 8)
    torch.testing.assert_close(x, torch.full_like(x, (16 - mean) / deviation))


def test_dark_on_bright_is_pointed_out(digits, tmp_path, caplog):
    lit = bitmap(load_digits().data[0])
    for name, pixels in (("ink.png", ~lit), ("light.png", lit)):
        Image.fromarray(pixels).save(tmp_path / name)
        with caplog.at_level(logging.WARNING):
            digits.encode([str(tmp_path / name)])
    assert len(caplog.records) == 1 and "ink.png" in caplog.text and "invert" in caplog.text


def test_files_of_rows_and_single_rows_and_images_can_be_mixed(digits, tmp_path):
    data = load_digits().data[:3]
    (tmp_path / "rows.csv").write_text("\n".join(map(row, data[:2])))
    Image.fromarray(bitmap(data[2])).save(tmp_path / "third.png")
    mixed = digits.encode([str(tmp_path / "rows.csv"), str(tmp_path / "third.png")])
    torch.testing.assert_close(mixed.x, digits.encode([row(digit) for digit in data]).x, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("missing.png", "missing.png: there is no such file"),
        ("missing", "'missing' is neither a file nor a row of 64 numbers"),
        (row(np.zeros(63)), "63 columns where 64 are expected"),
        (row(np.zeros(63)) + ",x", r"column 64 \(column 64\): 'x' is not a number"),
        ("255," + row(np.zeros(63)), "column 1: 255 is outside 0 to 16"),
    ],
)
def test_what_cannot_be_read_is_named(digits, text, message):
    with pytest.raises(UserError, match=message):
        digits.encode([text])


@pytest.mark.parametrize("content", [b"no image at all", b"", b"\x89PNG\r\n\x1a\n" + bytes(40), "cut"])
def test_a_file_that_is_no_image_is_named(digits, tmp_path, content):
    path = tmp_path / "broken.png"
    if content == "cut":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90), dtype=np.uint8)).save(path)
        content = path.read_bytes()[:2000]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.png: this is not a readable image"):
        digits.encode([str(path)])
