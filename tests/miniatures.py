"""Small files in the formats of the public data sets, so that tests need no downloads."""

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np

PUBLIC = ("fashion_mnist", "mnist", "cifar10", "tiny_shakespeare", "ett", "multi30k")


def write_public(name: str, folder: Path) -> None:
    """Write the files of a data set into a folder for paths.data."""
    if name in ("fashion_mnist", "mnist"):
        write_idx_set(folder / name)
    elif name == "cifar10":
        write_cifar10(folder / "cifar10")
    elif name == "tiny_shakespeare":
        text = "Citizen: before we proceed any further, hear me speak.\n" * 120
        _write(folder / "tiny_shakespeare" / "input.txt", text.encode())
    elif name == "ett":
        write_ett(folder / "ett" / "ETTh1.csv")
    elif name == "multi30k":
        write_multi30k(folder / "multi30k")
    else:
        raise KeyError(name)


def _write(path: Path, contents: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents)


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx_set(folder: Path, sizes: tuple[int, int] = (200, 40), side: int = 28) -> None:
    generator = np.random.default_rng(0)
    for part, size in zip(("train", "t10k"), sizes, strict=True):
        labels = (np.arange(size) % 10).astype(np.uint8)
        images = generator.integers(0, 200, (size, side, side), dtype=np.uint8) + labels[:, None, None]
        _write(folder / f"{part}-images-idx3-ubyte.gz", gzip.compress(idx(images)))
        _write(folder / f"{part}-labels-idx1-ubyte.gz", gzip.compress(idx(labels)))


def cifar_batch(size: int, seed: int) -> bytes:
    """Return a batch as the authors pickled it: byte strings as keys, and the old name of NumPy's module."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, 3072), dtype=np.uint8)
    batch = {b"data": pixels, b"labels": [i % 10 for i in range(size)]}
    return pickle.dumps(batch, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def write_cifar10(folder: Path, batches: dict[str, bytes] | None = None) -> Path:
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    members = {name: cifar_batch(40, seed) for seed, name in enumerate(names)} | (batches or {})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, contents in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(contents)
            tar.addfile(info, io.BytesIO(contents))
    path = folder / "cifar-10-python.tar.gz"
    _write(path, buffer.getvalue())
    return path


def write_multi30k(folder: Path) -> None:
    for part, numbers in (("train", range(60)), ("val", range(60, 68)), ("test_2016_flickr", range(68, 76))):
        for language, sentence in (("en", "A man, {} dogs and a ball."), ("de", "Ein Mann, {} Hunde und ein Ball.")):
            lines = "".join(sentence.format(n + 2) + "\n" for n in numbers)
            _write(folder / f"{part}.{language}.gz", gzip.compress(lines.encode()))


def write_ett(path: Path, rows: int = 14_400) -> np.ndarray:
    time = np.arange(rows)
    values = np.stack([np.sin(time / (5 + k)) + k for k in range(7)], 1).round(4)
    lines = ["date,HUFL,HULL,MUFL,MULL,LUFL,LULL,OT"]
    lines += [f"{t}," + ",".join(f"{value:g}" for value in row) for t, row in zip(time, values, strict=True)]
    _write(path, "\n".join(lines).encode())
    return values
