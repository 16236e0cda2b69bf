"""The public image sets, from miniatures in their formats and, where they are at hand, from the real files."""

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src import ROOT
from src.core.errors import UserError
from src.datamodules.vision.pixels import fit_pixel_scale
from src.datamodules.vision.public_image_sets import CIFAR10, MNIST, FashionMNIST, read_idx
from tests.miniatures import cifar_batch, idx, write_cifar10, write_idx_set

REAL = ROOT.parent / "shared" / "data"


def made(cls, folder: Path, **more):
    return cls(**{"verify": False, "data_dir": folder, **more})


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_idx_is_read_as_it_was_written(shape) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(read_idx(idx(array), "file"), array)


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\x02\0\0\0\x05",
        b"\0\0\x0d\x01\0\0\0\x01abcd",
        idx(np.zeros(5, np.uint8)) + b"x",
        idx(np.zeros(5, np.uint8))[:-1],
    ],
)
def test_what_is_no_idx_file_is_refused(contents) -> None:
    with pytest.raises(UserError, match=r"^labels: "):
        read_idx(contents, "labels")


def test_pixels_are_standardised_by_the_training_part_alone(tmp_path) -> None:
    write_idx_set(tmp_path / "fashion_mnist")
    data = made(FashionMNIST, tmp_path)
    train, val, test = (data.split(name).x.double() for name in ("train", "val", "test"))
    assert train.shape == (180, 1, 28, 28) and val.shape[0] == 20 and test.shape[0] == 40
    assert train.mean() == pytest.approx(0, abs=1e-6) and train.std(correction=0) == pytest.approx(1, abs=1e-6)
    assert abs(test.mean()) > 1e-4
    assert data.split("val").y.bincount().tolist() == [2] * 10, "each class in proportion"


def test_the_scale_is_that_of_numpy() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5), dtype=np.uint8)
    scale = fit_pixel_scale(pixels)
    np.testing.assert_allclose(scale.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(scale.deviation, pixels.std((0, 2, 3)), rtol=1e-12)


def test_an_image_file_and_its_bytes_are_read_alike(tmp_path) -> None:
    write_cifar10(tmp_path / "cifar10")
    data = made(CIFAR10, tmp_path)
    data.setup()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    row = ",".join(map(str, pixels.transpose(2, 0, 1).ravel()))
    a, b = data.encode([str(tmp_path / "image.png"), row]).x
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("file", "contents", "message"),
    [
        ("train-labels-idx1", idx(np.zeros(199, np.uint8)), "200 images, but 199 labels"),
        ("train-labels-idx1", idx(np.full(200, 10, np.uint8)), "label 10, but there are 10 classes"),
        ("t10k-images-idx3", idx(np.zeros((40, 27, 28), np.uint8)), r"shape \[40, 27, 28\] instead of images of 28×28"),
        ("t10k-images-idx3", b"<html>not found</html>", "this is not an IDX file"),
    ],
)
def test_wrong_files_are_named(tmp_path, file, contents, message) -> None:
    write_idx_set(tmp_path / "fashion_mnist")
    (tmp_path / "fashion_mnist" / f"{file}-ubyte.gz").write_bytes(gzip.compress(contents))
    with pytest.raises(UserError, match=message):
        made(FashionMNIST, tmp_path).setup()


def test_the_unpacked_folder_of_cifar_serves_too(tmp_path) -> None:
    write_cifar10(tmp_path / "packed" / "cifar10")
    folder = tmp_path / "unpacked" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for seed, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        (folder / name).write_bytes(cifar_batch(40, seed))
    packed, unpacked = made(CIFAR10, tmp_path / "packed"), made(CIFAR10, tmp_path / "unpacked")
    assert torch.equal(packed.split("test").x, unpacked.split("test").x)
    unpacked = made(CIFAR10, tmp_path / "unpacked", verify=True)
    with pytest.raises(
        UserError, match=r"data_batch_1: 123,\d+ bytes that differ from those published in https://.*cifar"
    ):
        unpacked.read()


def test_another_set_is_refused_in_the_place_of_mnist(tmp_path) -> None:
    write_idx_set(tmp_path / "mnist")
    for file in (tmp_path / "mnist").iterdir():
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    made(MNIST, tmp_path).read()
    data = made(MNIST, tmp_path, verify=True)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte: .* differ from those published"):
        data.read()


class Touch:
    """Runs code when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def test_a_batch_of_cifar_runs_no_code(tmp_path) -> None:
    evil = pickle.dumps({b"data": Touch(str(tmp_path / "touched")), b"labels": []})
    write_cifar10(tmp_path / "cifar10", {"data_batch_3": evil})
    with pytest.raises(UserError, match=r"data_batch_3: this is not a batch of CIFAR-10: it contains \w*pathlib"):
        made(CIFAR10, tmp_path).setup()
    assert not (tmp_path / "touched").exists()


def test_an_archive_that_lacks_a_batch_is_named(tmp_path) -> None:
    path = write_cifar10(tmp_path / "cifar10")
    path.write_bytes(gzip.compress(b"no tar"))
    with pytest.raises(UserError, match="cannot be read from the archive"):
        made(CIFAR10, tmp_path).setup()


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real files beside the checkout")
def test_the_real_fashion_mnist_has_its_published_statistics() -> None:
    data = FashionMNIST(val_fraction=1 / 60, data_dir=REAL)
    (images, labels), (test_images, test_labels) = data.read()
    assert images.shape == (60_000, 1, 28, 28) and test_images.shape == (10_000, 1, 28, 28)
    assert np.bincount(labels).tolist() == [6000] * 10 and np.bincount(test_labels).tolist() == [1000] * 10
    assert images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert images.std() / 255 == pytest.approx(0.3530, abs=5e-5)
