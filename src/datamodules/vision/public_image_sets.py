"""Public image sets: Fashion-MNIST, MNIST and CIFAR-10, with their published training and test splits."""

import io
import pickle
import tarfile
from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from src.core.errors import UserError
from src.core.files import read_data_file
from src.datamodules.io.downloads import PublicFile, has_checksum
from src.datamodules.splits.holdout import split_indices
from src.datamodules.vision.pixels import Arrays, ImagesInMemory


class ImageSet(ImagesInMemory):
    """Labelled images of one size; validation is drawn from the training images, stratified by class.

    Args:
        val_fraction: share of the training images.
        split_seed: seed of the validation split.
        verify: reject files that differ from the published ones.
        common: arguments of `DataModule`.
    """

    def __init__(self, val_fraction: float = 0.1, split_seed: int = 0, verify: bool = True, **common: Any) -> None:
        super().__init__(**common)
        self.val_fraction, self.split_seed, self.verify = val_fraction, split_seed, verify

    @abstractmethod
    def read(self) -> tuple[Arrays, Arrays]:
        """Return training and test images with their labels."""

    def read_splits(self) -> dict[str, Arrays]:
        (images, labels), test = self.read()
        parts = split_indices(len(labels), self.val_fraction, 0.0, self.split_seed, labels, self.fold)
        train, val = ((images[parts[name]], labels[parts[name]]) for name in ("train", "val"))
        return {"train": train, "val": val, "test": test}

    def example_inputs(self, count: int = 3) -> list[str]:
        return [",".join(map(str, image.ravel())) for image in self.read()[1][0][:count]]


# ---- the IDX format -------------------------------------------------------------------------------------------------


def read_idx(contents: bytes, where: str) -> np.ndarray:
    """Read an IDX file of bytes (LeCun): two zeros, the type 8, the number of dimensions, their sizes, the values.

    Raises:
        UserError: if the file is invalid, or has too few or too many values.
    """
    if len(contents) < 4 or contents[:3] != b"\x00\x00\x08":
        raise UserError(f"{where}: this is not an IDX file of bytes")
    dimensions = contents[3]
    start = 4 + 4 * dimensions
    shape = tuple(int(n) for n in np.frombuffer(contents[4:start], ">u4"))
    if len(shape) < dimensions or len(contents) - start != int(np.prod(shape, dtype=np.int64)):
        raise UserError(f"{where}: {len(contents):,} bytes do not fit an array of shape {list(shape)}")
    return np.frombuffer(contents, np.uint8, offset=start).reshape(shape).copy()  # writable, as torch requires


class IdxImages(ImageSet):
    """Grey images of 28×28 in four IDX files."""

    shape = (1, 28, 28)
    files: ClassVar[dict[str, PublicFile]]

    def read(self) -> tuple[Arrays, Arrays]:
        return self._pair("train"), self._pair("t10k")

    def _pair(self, part: str) -> Arrays:
        images, images_path = self._read_file(f"{part}-images-idx3")
        labels, labels_path = self._read_file(f"{part}-labels-idx1")
        if images.ndim != 3 or images.shape[1:] != self.shape[1:]:
            raise UserError(f"{images_path}: has an array of shape {list(images.shape)} instead of images of 28×28")
        if labels.shape != images.shape[:1]:
            raise UserError(f"{images_path}: {len(images):,} images, but {len(labels):,} labels")
        if labels.size and labels.max() >= len(self.classes):
            raise UserError(f"{labels_path}: label {labels.max()}, but there are {len(self.classes)} classes")
        return images[:, None], labels

    def _read_file(self, name: str) -> tuple[np.ndarray, str]:
        """Return the array of a file, and its path."""
        file = self.files[name]
        contents = file.read(self.data_dir, self.verify, self.write_dir)
        path = str(file.find(self.data_dir, self.write_dir))
        return read_idx(contents, path), path


def _idx_files(folder: str, base: str, torchvision: str, **sums: str) -> dict[str, PublicFile]:
    """Return the four files with the SHA-256 of their contents."""
    files = {}
    for key, value in sums.items():
        name = key.replace("_", "-")
        file = f"{name}-ubyte.gz"
        files[name] = PublicFile(f"{base}/{file}", f"{folder}/{file}", value, also=(f"{torchvision}/raw/{file}",))
    return files


class FashionMNIST(IdxImages):
    """70,000 grey images 28×28 of clothes in 10 classes (Xiao, Rasul and Vollgraf 2017)."""

    classes = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    files = _idx_files(
        "fashion_mnist",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
        "FashionMNIST",
        train_images_idx3="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        train_labels_idx1="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        t10k_images_idx3="5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        t10k_labels_idx1="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    )


class MNIST(IdxImages):
    """70,000 grey images 28×28 of handwritten digits (LeCun, Cortes and Burges)."""

    classes = tuple(str(digit) for digit in range(10))
    files = _idx_files(
        "mnist",
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "MNIST",
        train_images_idx3="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        train_labels_idx1="65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        t10k_images_idx3="0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        t10k_labels_idx1="ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    )


# ---- CIFAR-10 --------------------------------------------------------------------------------------------------------


MAX_BATCH_BYTES = 2**26
"""Largest size of a file of CIFAR-10; each has 31 MB."""
MAX_MEMBERS = 1000
"""Number of archive members that are searched; CIFAR-10 has 9."""


class _PickledObject:
    """Description of an array or a dtype in a pickle; NumPy's own classes would trust it."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _ArrayUnpickler(pickle._Unpickler):  # type: ignore[name-defined]  # the C version allocates whatever size a file states
    """Reads pickles of dictionaries of NumPy arrays and rejects all other classes, because a file must not run code."""

    def find_class(self, module: str, name: str) -> Any:
        if name in ("_reconstruct", "ndarray", "dtype") and module.partition(".")[0] == "numpy":
            return _PickledObject
        raise pickle.UnpicklingError(f"it contains {module}.{name}, which is not an array")


def read_cifar_batch(contents: bytes, where: str) -> Arrays:
    """Read a pickle of CIFAR-10.

    Raises:
        UserError: if it contains anything but an array of bytes as images and a list of the labels 0 to 9.
    """
    try:
        batch = _ArrayUnpickler(io.BytesIO(contents), encoding="bytes").load()
        _, shape, dtype, fortran_order, values = batch[b"data"].state
        if dtype.arguments[0] not in (b"u1", "u1"):
            raise TypeError("its images are not arrays of bytes")
        pixels = np.frombuffer(values, np.uint8).reshape(shape, order="F" if fortran_order else "C")
        images = pixels.reshape(-1, *CIFAR10.shape).copy()  # writable, as torch requires
        labels = batch[b"labels"]
        if not all(type(label) is int and 0 <= label < len(CIFAR10.classes) for label in labels):
            raise ValueError("its labels are not integers from 0 to 9")
    except Exception as error:  # a damaged pickle can raise any exception
        raise UserError(f"{where}: this is not a batch of CIFAR-10: {error}") from error
    if len(images) != len(labels):
        raise UserError(f"{where}: {len(images):,} images with {len(labels):,} labels")
    return images, np.array(labels, dtype=np.int64)


class CIFAR10(ImageSet):
    """60,000 colour images 32×32 of 10 classes (Krizhevsky 2009), from the "python version" archive or its extracted folder."""

    shape = (3, 32, 32)
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    archive = PublicFile(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "cifar10/cifar-10-python.tar.gz",
        packed="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        also=("cifar-10-python.tar.gz",),
    )
    folder = "cifar-10-batches-py"
    sums: ClassVar[dict[str, str]] = {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    }

    def read(self) -> tuple[Arrays, Arrays]:
        folders = (self.data_dir / "cifar10" / self.folder, self.data_dir / self.folder)
        complete = [folder for folder in folders if all((folder / name).is_file() for name in self.sums)]
        *train, test = self._read_folder(complete[0]) if complete else self._read_archive()
        images, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
        return (images, labels), test

    def _read_folder(self, folder: Path) -> Iterator[Arrays]:
        for name, checksum in self.sums.items():
            contents = read_data_file(folder / name, MAX_BATCH_BYTES)
            if self.verify and not has_checksum(contents, checksum):
                raise UserError(
                    f"{folder / name}: {len(contents):,} bytes that differ from those published in {self.archive.url}; "
                    "set datamodule.verify=false to use them unverified"
                )
            yield read_cifar_batch(contents, str(folder / name))

    def _read_archive(self) -> Iterator[Arrays]:
        """Yield the arrays of the files of the archive, which is not extracted to disk."""
        packed = io.BytesIO(self.archive.read(self.data_dir, self.verify, self.write_dir))
        path = self.archive.find(self.data_dir, self.write_dir)
        try:
            with tarfile.open(fileobj=packed, mode="r:") as archive:
                members = {member.name: member for member in islice(archive, MAX_MEMBERS)}
                for name in self.sums:
                    member = members[f"{self.folder}/{name}"]
                    if not member.isreg() or member.issparse() or member.size > MAX_BATCH_BYTES:
                        raise ValueError(f"{name} is not a regular file of at most {MAX_BATCH_BYTES / 2**20:,.0f} MiB")
                    file = archive.extractfile(member)
                    assert file is not None
                    yield read_cifar_batch(file.read(), f"{path}, {member.name}")
        except UserError:
            raise
        except KeyError as error:
            raise UserError(f"{path}: cannot be read from the archive: there is no {error}") from error
        except (tarfile.TarError, ValueError, OSError) as error:
            raise UserError(f"{path}: cannot be read from the archive: {error}") from error
