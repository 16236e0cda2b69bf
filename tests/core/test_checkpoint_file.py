"""A checkpoint is read as by torch, and a hostile one cannot run code or use excessive memory or time."""

import functools
import io
import os
import pickle
import struct
import time
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.core.checkpoint_file import CheckpointError, read_checkpoint_file, write_checkpoint_file
from src.core.errors import UserError


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        alike = one.dtype == other.dtype and one.stride() == other.stride() and one.requires_grad == other.requires_grad
        return alike and torch.equal(one, other)
    if isinstance(one, dict):
        alike = list(one) == list(other) and getattr(one, "_metadata", 0) == getattr(other, "_metadata", 0)
        return alike and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


KINDS = (torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool)
ARRAY = np.arange(5.0)
VIEWED = torch.zeros(2**20)
VALUES = {
    "state of a model": torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict(),
    "types": [torch.ones(3).to(kind) for kind in KINDS],
    "views": [torch.arange(12.0).view(3, 4).t(), torch.arange(12)[3:7], torch.zeros(0, 3), torch.tensor(1.5)],
    "wants gradients": torch.ones(2, requires_grad=True),
    "containers": {"a": (1, 2.5, None, True), 3: [], "ordered": OrderedDict(x=1), "counted": Counter({4: 2})},
    "numbers": [0, -1, 255, 65535, 2**31, -(2**40), 2**63 - 1, float("inf"), 1e-300],
    "texts": ["", "é ☃", "x" * 100_000, "\ud800"],
    "many names": [f"word {number}" for number in range(3000)],
}


@pytest.mark.parametrize("name", VALUES)
def test_a_file_of_torch_save_is_read_like_torch_load(tmp_path: Path, name: str) -> None:
    torch.save(VALUES[name], tmp_path / "a.ckpt")
    assert same(read_checkpoint_file(tmp_path / "a.ckpt"), torch.load(tmp_path / "a.ckpt", weights_only=True))


EXTENSIONS = {
    "bytes": [b"", b"\x00\xff", bytes(range(256)) * 10],
    "complex": [1 + 2j, complex("nan")],
    "frozen": [frozenset(), frozenset({"a", 1})],
    "types": [torch.float32, torch.float8_e4m3fn, torch.bool],
    "new tensors": [torch.ones(3).to(kind) for kind in (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16)],
    "views of new tensors": torch.arange(12).to(torch.uint16).view(3, 4).t()[1:],
    "parameters": [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2), requires_grad=False)],
    "numbers of NumPy": [
        np.float64(1.5),
        np.float32(2.5),
        np.int64(-3),
        np.bool_(True),
        np.complex64(1j),
        np.uint8(255),
    ],
    "arrays": [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.eye(3)),
        np.array(2.0),
        np.zeros((0, 2)),
        np.ones(3) > 0,
    ],
    "the same array": [ARRAY, ARRAY, ARRAY[:2]],
    "a generator": np.random.default_rng(0).bit_generator.state,
}


def written(value: Any, path: Path) -> Path:
    with path.open("w+b") as file:
        write_checkpoint_file(value, file)
    return path


@pytest.mark.parametrize("name", EXTENSIONS)
def test_checkpoints_of_extensions_are_read_back(tmp_path: Path, name: str) -> None:
    value = read_checkpoint_file(written(EXTENSIONS[name], tmp_path / "a.ckpt"))
    assert repr(value) == repr(EXTENSIONS[name])  # NaN is not equal to itself


NOT_DATA: dict[str, tuple[Any, str]] = {
    "a path": ({"a": {"b": Path("x")}}, "a.b: .*path"),
    "a function": ([print], "0: .*builtin"),
    "a tuple as a key": ({"a": {(1, 2): 3}}, "a: .*key"),
    "a number as a key": ({np.int64(1): 3}, "key"),
    "a tuple in a set": ({"a": {(1, 2)}}, "a: .*set"),
    "a huge number as a key": ({"a": {2**70: 1}}, "a: .*key"),
    "a huge number": ({"a": 2**140}, "a: .*large"),
    "objects of NumPy": ({"a": np.array([{}])}, "a: .*ndarray"),
    "texts of NumPy": ({"a": np.array(["x"])}, "a: .*ndarray"),
    "another byte order": ({"a": np.arange(3).astype(">i4")}, "a: .*ndarray"),
    "a sparse tensor": ({"a": torch.eye(3).to_sparse()}, "a: .*sparse"),
    "a tensor without contents": ({"a": torch.ones(2, device="meta")}, "a: .*tensor"),
    "a conjugate": ({"a": torch.ones(2, dtype=torch.complex64).conj()}, "a: .*conjugate"),
    "an expanded tensor": ({"a": torch.ones(1).expand(1000)}, "a: .*expand"),
    "a default dictionary": ({"a": defaultdict(int)}, "a: .*defaultdict"),
    "too deep": (functools.reduce(lambda inner, _: [inner], range(70), []), "deep"),
    "too many bytes": (["x" * 2**20 + str(number) for number in range(65)], "MiB"),
    "views without end": ([VIEWED[number:] for number in range(99)], "larger"),
}


@pytest.mark.parametrize("name", NOT_DATA)
def test_a_value_that_cannot_be_read_back_is_not_written(tmp_path: Path, name: str) -> None:
    value, message = NOT_DATA[name]
    with pytest.raises(CheckpointError, match=message):
        written(value, tmp_path / "a.ckpt")


def test_tensors_share_a_storage_after_reading(tmp_path: Path) -> None:
    whole = torch.zeros(6)
    torch.save([whole, whole[2:]], tmp_path / "a.ckpt")
    one, other = read_checkpoint_file(tmp_path / "a.ckpt")
    other[0] = 5
    assert one.tolist() == [0, 0, 5, 0, 0, 0]


# ---- hostile files ---------------------------------------------------------------------------------------------------


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as file:
        for name, contents in members.items():
            file.writestr(name, contents)
    return written.getvalue()


def of_pickle(code: bytes, **storages: bytes) -> bytes:
    return archive({"a/data.pkl": b"\x80\x02" + code, **{f"a/data/{key}": value for key, value in storages.items()}})


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def storage(key: str, count: int, kind: str = "FloatStorage") -> bytes:
    return (
        b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + number(count) + b"tQ"
    )


def tensor(place: bytes, offset: int, shape: int, stride: int) -> bytes:
    sizes = number(offset) + number(shape) + b"\x85" + number(stride) + b"\x85"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + sizes + b"\x89ccollections\nOrderedDict\n)RtR"


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.ckpt").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match=r"x\.ckpt: .* sparse file"):
        read_checkpoint_file(tmp_path / "x.ckpt")


def test_tensors_that_do_not_fit_into_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "x.ckpt")
    monkeypatch.setattr("src.core.checkpoint_file.MAX_HOLES", 0)
    monkeypatch.setattr("src.core.resources.SMALL", 0)
    monkeypatch.setattr("src.core.resources.available_memory", lambda: 100)
    with pytest.raises(CheckpointError, match="of memory are free"):
        read_checkpoint_file(tmp_path / "x.ckpt")


class Runs:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call[0], self.call[1:]


def encoded(contents: bytes) -> bytes:
    return b"c_codecs\nencode\n" + text(contents.decode("latin1")) + text("latin1") + b"\x86R"


def kind_of_array(kind: str = "f8", order: str = "<") -> bytes:
    state = b"(K\x03" + text(order) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    return b"cnumpy\ndtype\n" + text(kind) + b"\x89\x88\x87R" + state + b"b"


def array(shape: int, contents: bytes, kind: bytes = kind_of_array()) -> bytes:
    made = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + encoded(b"b") + b"\x87R"
    return made + b"(K\x01" + number(shape) + b"\x85" + kind + b"\x89" + contents + b"tb"


def saved(value: Any, **options: Any) -> bytes:
    written = io.BytesIO()
    torch.save(value, written, **options)
    return written.getvalue()


def laughs(levels: int = 12) -> bytes:
    named = [b"h" + bytes([level]) for level in range(levels)]
    lists = [b"](" + name * 10 + b"eq" + bytes([level]) for level, name in enumerate(named, 1)]
    return b"]q\x00" + b"".join(lists)


def copies(name: bytes, items: bytes) -> bytes:
    """Return a pickle that calls a function repeatedly with the same items."""
    return b"(" + items + b"q\x00" + (name + b"h\x00\x85R") * 3000 + b"t."


FOUR = {"0": bytes(16)}
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "text": b"what a day\n" * 100,
    "a plain pickle": pickle.dumps({"epoch": 1}),
    "the format before torch 1.6": saved({"epoch": 1}, _use_new_zipfile_serialization=False),
    "TorchScript": archive({"a/data.pkl": b"\x80\x02}.", "a/constants.pkl": b"\x80\x02)."}),
    "code": saved(Runs(print, "code ran")),
    "a call of os.system": saved(Runs(os.system, "echo code ran")),
    "ten gigabytes": saved(Runs(bytearray, 10**10)),
    "a name of a builtin": of_pickle(b"c__builtin__\nbytearray\n" + number(10**10) + b"\x85R."),
    "compressed": archive({"a/data.pkl": b"\x80\x02}.", "a/data/0": bytes(10**7)}, zipfile.ZIP_DEFLATED),
    "a name that leaves": archive({"a/data.pkl": b"\x80\x02}.", "a/../../x": b""}),
    "a pickle twice": archive({"a/data.pkl": b"\x80\x02}.", "b/data.pkl": b"\x80\x02}."}),
    "another byte order": archive({"a/data.pkl": b"\x80\x02}.", "a/byteorder": b"big"}),
    "a storage that is missing": of_pickle(tensor(storage("0", 4), 0, 4, 1) + b"."),
    "a storage beyond its member": of_pickle(tensor(storage("0", 10**9), 0, 4, 1) + b".", **FOUR),
    "a tensor beyond its storage": of_pickle(tensor(storage("0", 4), 0, 10**9, 1) + b".", **FOUR),
    "a tensor of one number": of_pickle(tensor(storage("0", 4), 0, 10**9, 0) + b".", **FOUR),
    "an offset beyond": of_pickle(tensor(storage("0", 4), 9, 4, 1) + b".", **FOUR),
    "an offset before": of_pickle(tensor(storage("0", 4), -4, 4, 1) + b".", **FOUR),
    "a stride before": of_pickle(tensor(storage("0", 4), 0, 2, -1) + b".", **FOUR),
    "a state for a tensor": of_pickle(tensor(storage("0", 4), 0, 4, 1) + b"}b.", **FOUR),
    "attributes": of_pickle(b"ccollections\nOrderedDict\n)R}" + text("items") + b"K\x05sb."),
    "a storage as a value": of_pickle(storage("0", 4) + b".", **FOUR),
    "a function as a value": of_pickle(b"ctorch._utils\n_rebuild_tensor_v2\n."),
    "deep": of_pickle(b"]" * 100_000 + b"a" * 99_999 + b"."),
    "a list in itself": of_pickle(b"]q\x00h\x00a."),
    "a dictionary in itself": of_pickle(b"}q\x00" + text("a") + b"h\x00s."),
    "a billion laughs": of_pickle(b"(" + laughs() + b"t."),
    "an array beyond its bytes": of_pickle(array(10**9, encoded(bytes(8))) + b"."),
    "an array of a negative size": of_pickle(array(-1, encoded(bytes(8))) + b"."),
    "an array of objects": of_pickle(array(1, encoded(bytes(8)), kind_of_array("O8", "|")) + b"."),
    "an array of records": of_pickle(array(1, encoded(bytes(8)), kind_of_array("V8", "|")) + b"."),
    "an array of a list": of_pickle(array(1, b"]") + b"."),
    "an array of another byte order": of_pickle(array(1, encoded(bytes(8)), kind_of_array("f8", ">")) + b"."),
    "an array of booleans of 7": of_pickle(array(8, encoded(bytes([7] * 8)), kind_of_array("b1", "|")) + b"."),
    "an array without a state": of_pickle(b"cnumpy\nndarray\n)R."),
    "a type of NumPy as a value": of_pickle(kind_of_array() + b"."),
    "an array of a text": of_pickle(b"cnumpy._core.multiarray\nscalar\n" + text("f8") + encoded(bytes(8)) + b"\x86R."),
    "copies of a set": of_pickle(copies(b"c__builtin__\nset\n", b"](" + b"".join(map(number, range(9999))) + b"e")),
    "copies of a counter": of_pickle(
        copies(b"ccollections\nCounter\n", b"}(" + b"".join(number(key) + b"K\x01" for key in range(9999)) + b"u")
    ),
    "copies of bytes": of_pickle(
        b"(" + text("x" * 10**6) + b"q\x00" + b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR" * 3000 + b"t."
    ),
    "a storage of bytes in two types": of_pickle(
        b"(" + tensor(storage("0", 4), 0, 4, 1) + tensor(storage("0", 4, "IntStorage"), 0, 4, 1) + b"t.", **FOUR
    ),
    "keys of one hash": of_pickle(
        b"}(" + b"".join(b"\x8a\x0c" + (n * (2**61 - 1)).to_bytes(12, "little") + b"N" for n in range(10**5)) + b"u."
    ),
    "containers without end": of_pickle(b"]" * (3 * 2**20) + b"."),
    "a list as a key": of_pickle(b"}])s."),
    "a huge number": of_pickle(b"\x8a\xff" + bytes([255] * 254) + b"\x01."),
    "a text that is cut off": of_pickle(b"X\xff\xff\xff\x7fabc."),
    "no end": of_pickle(b"}"),
    "an empty stack": of_pickle(b"s."),
    "another protocol": archive({"a/data.pkl": pickle.dumps({"a": bytearray(3)}, 5)}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_anything_but_plain_data_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / "a.ckpt").write_bytes(HOSTILE[name])
    began = time.process_time()
    with pytest.raises(UserError, match=r"a\.ckpt: this checkpoint cannot be read"):
        read_checkpoint_file(tmp_path / "a.ckpt")
    assert time.process_time() - began < 20  # against a hang
    assert "code ran" not in capfd.readouterr().out


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    contents = bytearray(saved({"weights": torch.arange(1000.0)}))
    contents[contents.index(struct.pack("<f", 500.0)) + 3] ^= 1
    (tmp_path / "a.ckpt").write_bytes(contents)
    with pytest.raises(UserError, match="changed since it was written"):
        read_checkpoint_file(tmp_path / "a.ckpt")


def test_cut_and_mutated_files_are_user_errors_or_readable(tmp_path: Path) -> None:
    whole = saved({"weights": torch.arange(20.0), "names": ["a", "b"], "state": OrderedDict(a=torch.ones(2))})
    path = tmp_path / "a.ckpt"
    for attempt in range(400):
        contents = bytearray(whole)
        if attempt % 2:
            del contents[len(whole) * attempt // 400 :]
        else:
            contents[len(whole) * attempt // 400] ^= 1 << attempt // 2 % 8
        path.write_bytes(contents)
        try:
            read_checkpoint_file(path)
        except UserError as error:
            assert str(path) in str(error)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes of POSIX")
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    with pytest.raises(UserError, match="not a regular file"):
        read_checkpoint_file(tmp_path / "pipe.ckpt")
    with pytest.raises(IsADirectoryError):
        read_checkpoint_file(tmp_path)
    with (tmp_path / "sparse.ckpt").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint_file(tmp_path / "sparse.ckpt")


def test_links_are_followed_only_where_no_root_is_given(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    torch.save({"epoch": 1}, tmp_path / "own.ckpt")
    (tmp_path / "run" / "last.ckpt").symlink_to(tmp_path / "own.ckpt")
    assert read_checkpoint_file(tmp_path / "run" / "last.ckpt") == {"epoch": 1}
    with pytest.raises(UserError, match="link"):
        read_checkpoint_file(tmp_path / "run" / "last.ckpt", tmp_path / "run")
