"""Read files of ``torch.save`` that may come from someone else, as data only.

A checkpoint is a zip archive of a pickle and the storages of its tensors. The functions below parse both themselves, so that
the checked data are the data that are used: no code is imported or called, no storage is larger than the bytes in the file, and
time and memory are proportional to the size of the file. For files that Gridlight wrote, the result is that of
``torch.load(…, weights_only=True)``. Other formats (pickles without an archive, TorchScript) are refused.
"""

import io
import os
import pickle
import re
import struct
import sys
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from src.core.checkpoint_arrays import DTYPE_NAMES, array_of, check_dtype_state, fill, is_plain_array
from src.core.errors import UserError, first_line
from src.core.files import data_ranges, open_below, open_data_file
from src.core.resources import check_memory

MAX_PICKLE_BYTES = 64 * 2**20
"""Maximum size of the pickle of a checkpoint, without the tensors."""
MAX_DIRECTORY_BYTES = 8 * 2**20
"""Maximum size of the table of contents of the archive, which has about 70 bytes per tensor."""
MAX_DEPTH = 64
"""Maximum nesting depth of the containers of a checkpoint."""
MAX_SIZE = 2**27
"""Maximum number of values and characters in a checkpoint. A shared container counts for each occurrence."""
MAX_CONTAINERS = 2**20
"""Maximum number of containers in a pickle, each of which needs far more memory than its byte in the file."""
SURELY_SMALL = 2**17
"""Size of a checkpoint, counted as for `MAX_SIZE`, up to which no other limit can be exceeded."""
MAX_INSTRUCTIONS = 2**24
"""Maximum number of instructions of a pickle."""
MAX_INTEGER_BYTES = 17
"""Maximum size of an integer: 128 bits, as in random number generators, and a sign."""
MAX_MEMO = 2**22
"""Maximum number of values in the memo of a pickle."""
MAX_HOLES = 2**28
"""Maximum size of the holes of a checkpoint, which are read as zeros but take no space on the disk."""
MAX_SHARING = 8
"""Maximum ratio of the size of the tensors to the size of the file; tensors may share a storage."""

_END_BYTES = 22
_LOCAL = struct.Struct("<4s5H3L2H")
_MEMBER = re.compile(r"[^/\\\x00-\x1f]{1,255}/(?:[\w.-]{1,64}/){0,2}[\w.-]{1,64}")

_DTYPES = {
    f"{name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
    }.items()
}


_NEW_DTYPES = {
    *(torch.uint16, torch.uint32, torch.uint64, torch.complex32, torch.float8_e8m0fnu),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
}
"""Dtypes whose storages torch saves as bytes."""
_ALL_DTYPES = {*_DTYPES.values(), *_NEW_DTYPES}


class CheckpointError(UserError):
    """A checkpoint cannot be read or written as plain data."""


def read_checkpoint_file(path: Path, root: Path | None = None) -> Any:
    """Return the value in a file of ``torch.save``, with its tensors on the CPU.

    Args:
        path: the file.
        root: a parent folder, below which no component of the path may be a link; None follows all links.

    Raises:
        OSError: if there is no such file.
        UserError: if it is not a regular file, is damaged, or contains anything but tensors and plain containers.
    """
    with open_data_file(path) if root is None else open_below(root, path.relative_to(root)) as file:
        try:
            return _Archive(file).load()
        except UserError as error:
            raise CheckpointError(f"{path}: this checkpoint cannot be read: {error}") from error
        except Exception as error:
            raise CheckpointError(
                f"{path}: this checkpoint cannot be read: it is damaged ({first_line(error)[:200]})"
            ) from error


def write_checkpoint_file(value: Any, file: BinaryIO) -> None:
    """Write a value with ``torch.save``, if `read_checkpoint_file` can read it.

    Args:
        value: the checkpoint.
        file: a new file, open for reading and writing.

    Raises:
        CheckpointError: if `read_checkpoint_file` would refuse the file; the message names the part of the checkpoint.
    """
    tree = _Tree(new=True)
    try:
        size, _ = tree.measure(value)
    except CheckpointError as error:
        raise CheckpointError(f"{_find_invalid_part(value) or 'the checkpoint'}: {error}") from error
    torch.save(value, file)
    if size > SURELY_SMALL or tree.bytes_of_tensors > file.tell():
        file.flush()
        _Archive(file, with_contents=False).load()


def _find_invalid_part(value: Any) -> str:
    """Return the dotted path of the innermost part that cannot be written."""
    keys: list[str] = []
    while isinstance(value, dict | list | tuple) and len(keys) < MAX_DEPTH:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            try:
                _Tree(new=True).measure(inner)
            except CheckpointError:
                keys.append(str(key)[:60])
                value = inner
                break
        else:
            break
    return ".".join(keys)


class _Bounded:
    """A file wrapper that limits the size of the table of contents that `zipfile` reads.

    Args:
        file: open for reading.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        contents = self.file.read(size if 0 <= size <= MAX_DIRECTORY_BYTES else MAX_DIRECTORY_BYTES + 1)
        if len(contents) > MAX_DIRECTORY_BYTES:
            raise CheckpointError("its archive has too many files")
        return contents


class _Archive:
    """The archive of a checkpoint.

    Args:
        file: open for reading, at any position.
        with_contents: read the contents of the tensors; otherwise they are on the meta device.
    """

    def __init__(self, file: BinaryIO, with_contents: bool = True) -> None:
        self.file = file
        self.with_contents = with_contents
        self.size = os.fstat(file.fileno()).st_size
        self._check_size()
        self._check_end()
        with zipfile.ZipFile(_Bounded(file)) as archive:  # type: ignore[arg-type]
            members = archive.infolist()
        self.members: dict[str, tuple[int, zipfile.ZipInfo]] = {}
        end = 0
        for member in sorted(members, key=lambda member: member.header_offset):
            name = member.filename
            if not _MEMBER.fullmatch(name) or ".." in name.split("/"):
                raise CheckpointError(f"its archive names a file {name[:60]!r}")
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise CheckpointError("its archive is compressed, which torch.save does not do")
            if member.flag_bits & 1:
                raise CheckpointError("its archive is encrypted")
            start = self._data_start(member)
            if member.header_offset < end or start + member.file_size > self.size:
                raise CheckpointError("the files in its archive overlap, or are cut off")
            end = start + member.file_size
            name = name.partition("/")[2]
            if name in self.members:
                raise CheckpointError(f"its archive holds {name} twice")
            self.members[name] = (start, member)
        if "data.pkl" not in self.members:
            raise CheckpointError("it is not a file of torch.save")
        if "constants.pkl" in self.members:
            raise CheckpointError("it is a TorchScript program, which is not loaded")
        if "byteorder" in self.members and self.read("byteorder", 16) != sys.byteorder.encode():
            raise CheckpointError("it was written on a machine with another byte order")
        self.storages: dict[str, _Storage] = {}
        self.bytes_of_tensors = 0

    def _check_size(self) -> None:
        """Raise an error if the file has large holes, or if its tensors do not fit into memory."""
        if self.size > MAX_HOLES and self.with_contents:
            if self.size - sum(end - start for start, end in data_ranges(self.file)) > MAX_HOLES:
                raise CheckpointError("it is a sparse file; cp --sparse=never writes one that can be read")
            check_memory(self.size, "its tensors")

    def _check_end(self) -> None:
        """Raise `CheckpointError` unless the file ends like an archive without a comment."""
        self.file.seek(max(self.size - _END_BYTES, 0))
        tail = self.file.read(_END_BYTES)
        if len(tail) < _END_BYTES or tail[:4] != b"PK\5\6" or tail[-2:] != b"\0\0":
            raise CheckpointError("it is not a file of torch.save, or it is cut off; what could run code is not loaded")

    def _data_start(self, member: zipfile.ZipInfo) -> int:
        """Return the position of the contents of a member."""
        self.file.seek(member.header_offset)
        header = self.file.read(_LOCAL.size)
        if len(header) < _LOCAL.size or header[:4] != b"PK\3\4":
            raise CheckpointError("the table of contents of its archive is wrong")
        *_, name, extra = _LOCAL.unpack(header)
        return member.header_offset + _LOCAL.size + int(name) + int(extra)

    def read(self, name: str, limit: int) -> bytes:
        """Return the contents of a small member."""
        start, member = self.members[name]
        if member.file_size > limit:
            raise CheckpointError(f"{name} has more than {limit / 2**20:,.0f} MiB")
        self.file.seek(start)
        contents = self.file.read(member.file_size)
        self._check_sum(contents, member)
        return contents

    @staticmethod
    def _check_sum(contents: Any, member: zipfile.ZipInfo) -> None:
        if zlib.crc32(contents) != member.CRC:
            raise CheckpointError(f"{member.filename} has been changed since it was written (its checksum is wrong)")

    def storage(self, key: object, dtype: object, count: object) -> "_Storage":
        """Return a storage, which several tensors may share."""
        if not isinstance(key, str) or not isinstance(dtype, torch.dtype) or type(count) is not int or count < 0:
            raise CheckpointError("the description of a storage is invalid")
        if key in self.storages:
            storage = self.storages[key]
            if (storage.dtype, storage.count) != (dtype, count):
                raise CheckpointError(f"storage {key[:20]} has two different descriptions")
            return storage
        start, member = self.members.get(f"data/{key}", (0, None))
        if member is None or member.file_size != count * dtype.itemsize:
            raise CheckpointError(f"storage {key[:20]} does not have the declared size")
        contents = torch.empty(member.file_size, dtype=torch.uint8, device="cpu" if self.with_contents else "meta")
        if member.file_size and self.with_contents:
            view = memoryview(contents.numpy())  # type: ignore[arg-type]
            self.file.seek(start)
            if self.file.readinto(view) != member.file_size:  # type: ignore[attr-defined]
                raise CheckpointError("it is cut off")
            self._check_sum(view, member)
            if dtype == torch.bool:
                contents.clamp_(max=1)  # uninitialized memory has other values
        self.storages[key] = _Storage(dtype, count, contents.untyped_storage())
        return self.storages[key]

    def tensor(self, *arguments: Any) -> Tensor:
        """Return a tensor in a storage, as ``torch._utils._rebuild_tensor_v2`` does."""
        if len(arguments) != 6:  # the seventh is for lazy conjugates
            raise CheckpointError("the description of a tensor is invalid")
        storage, offset, shape, stride, requires_grad, _hooks = arguments
        if not isinstance(storage, _Storage) or not _are_sizes(shape) or not _are_sizes(stride):
            raise CheckpointError("the description of a tensor is invalid")
        if type(offset) is not int or type(requires_grad) is not bool or len(shape) != len(stride):
            raise CheckpointError("the description of a tensor is invalid")
        numel, last = 1, offset
        for size, step in zip(shape, stride, strict=True):
            numel *= size
            last += max(size - 1, 0) * step
        if not 0 <= offset <= storage.count or (numel and last >= storage.count) or numel > storage.count:
            raise CheckpointError("a tensor is larger than its storage")
        self.bytes_of_tensors += numel * storage.dtype.itemsize
        if self.bytes_of_tensors > MAX_SHARING * self.size + 2**20:
            raise CheckpointError("its tensors are together far larger than the file")
        tensor = torch.empty(0, dtype=storage.dtype, device=storage.contents.device)
        tensor.set_(storage.contents, offset, shape, stride)  # type: ignore[call-overload]
        return tensor.requires_grad_() if requires_grad and storage.dtype.is_floating_point else tensor

    def new_tensor(self, *arguments: Any) -> Tensor:
        """Return a tensor in a storage of bytes, as ``torch._utils._rebuild_tensor_v3`` does."""
        match arguments:
            case (_Storage(dtype=torch.uint8) as storage, *others, dtype) if dtype in _NEW_DTYPES:
                return self.tensor(_Storage(dtype, storage.count // dtype.itemsize, storage.contents), *others)
        raise CheckpointError("the description of a tensor is invalid")

    def load(self) -> Any:
        """Return the value of the pickle."""
        value = _Unpickler(self, self.read("data.pkl", MAX_PICKLE_BYTES)).load()
        _Tree().measure(value)
        return value


def _are_sizes(value: object) -> bool:
    return (
        isinstance(value, tuple) and len(value) <= 64 and all(type(size) is int and 0 <= size < 2**48 for size in value)
    )


@dataclass(frozen=True)
class _Storage:
    """A storage on the stack of the pickle."""

    dtype: torch.dtype
    count: int
    contents: torch.UntypedStorage


def _construct(kind: str, *arguments: Any) -> Any:
    """Return a container or value of a kind that a pickle constructs by a call, after checking the arguments."""
    match kind, arguments:
        case "dictionary", () | ([],):
            return OrderedDict()
        case "counter", () | (dict(),):
            return Counter(*arguments)
        case "set", (list() as items,) if _are_keys(items):
            return set(items)
        case "frozenset", (list() as items,) if _are_keys(items):
            return frozenset(items)
        case "bytes", ():
            return b""
        case "bytes", (str() as text, "latin1"):  # one character per byte
            return text.encode("latin1")
        case "complex number", (float() as real, float() as imaginary):
            return complex(real, imaginary)
        case "parameter", (Tensor() as data, bool() as requires_grad, _):
            return nn.Parameter(data.detach(), requires_grad and data.is_floating_point())
        case "size", (sizes,) if _are_sizes(sizes):
            return torch.Size(sizes)
        case "dtype of NumPy", (str() as name, _, _) if name in DTYPE_NAMES:
            return np.dtype(name)
        case "number of NumPy", (np.dtype() as dtype, bytes() as contents):
            return array_of(dtype, contents, ())[()]
        case "array of NumPy", (_, (0,), b"b"):  # `fill` sets its contents
            return np.empty(0, np.int8)
    raise CheckpointError(f"the description of a {kind} is invalid")


_KEYS = (str, int, float, bool, type(None))


def _are_keys(values: Iterable[Any]) -> bool:
    """Return whether values may be keys of a dictionary or items of a set.

    Integers of more than 64 bits may not, because thousands of them can have the same hash, which takes quadratic time.
    """
    return all(type(value) in _KEYS and (type(value) is not int or -(2**63) <= value < 2**63) for value in values)


class _Unpickler:
    """Reader of the pickle of a checkpoint.

    It supports the instructions of protocol 2 that describe plain containers and tensors. `_INSTRUCTIONS` lists them with
    their methods; all other instructions are refused.

    Args:
        archive: the archive with the storages of the tensors.
        data: the pickle.
    """

    def __init__(self, archive: _Archive, data: bytes) -> None:
        file = io.BytesIO(data)
        self.read, self.readline = file.read, file.readline
        self.archive = archive
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        """The stack below each mark, outermost first."""
        self.memo: dict[int, Any] = {}
        self.containers = 0
        self.may_copy = 3 * len(data)
        """Number of values and bytes that calls may still copy. Each is in the pickle, and is copied at most twice."""
        self.names: dict[str, Any] = {
            "collections OrderedDict": partial(_construct, "dictionary"),
            "collections Counter": partial(_construct, "counter"),
            "__builtin__ set": partial(_construct, "set"),
            "builtins set": partial(_construct, "set"),
            "__builtin__ frozenset": partial(_construct, "frozenset"),
            "__builtin__ bytes": partial(_construct, "bytes"),
            "_codecs encode": partial(_construct, "bytes"),
            "__builtin__ complex": partial(_construct, "complex number"),
            "torch Size": partial(_construct, "size"),
            "torch._utils _rebuild_parameter": partial(_construct, "parameter"),
            "torch._utils _rebuild_tensor_v2": partial(archive.tensor),
            "torch._utils _rebuild_tensor_v3": partial(archive.new_tensor),
            "torch.storage UntypedStorage": torch.uint8,
            **{f"torch {name}": dtype for name, dtype in _DTYPES.items()},
            **{str(dtype).replace(".", " "): dtype for dtype in _ALL_DTYPES},
            "numpy dtype": partial(_construct, "dtype of NumPy"),
            "numpy ndarray": None,
            **{f"numpy.{core}.multiarray scalar": partial(_construct, "number of NumPy") for core in ("core", "_core")},
            **{
                f"numpy.{core}.multiarray _reconstruct": partial(_construct, "array of NumPy")
                for core in ("core", "_core")
            },
        }
        """The values that names of classes and functions stand for. Only a `partial` may be called."""

    def load(self) -> Any:
        """Return the value of the pickle."""
        read = self.read
        for _ in repeat(None, MAX_INSTRUCTIONS):
            code = read(1)
            if instruction := _INSTRUCTIONS.get(code):
                instruction(self)
            elif code != pickle.STOP:
                raise CheckpointError(_refusal(code))
            elif self.outer or len(self.stack) != 1:
                raise CheckpointError("its pickle is damaged")
            else:
                return self.stack[0]
        raise CheckpointError("it holds too many values")

    # ---- numbers and texts ---------------------------------------------------------------------------------------
    # A truncated value needs no check, because the next instruction is missing then.

    def constant(self, value: Any) -> None:
        self.stack.append(value)

    def integer(self, size: int, signed: bool = False) -> None:
        self.stack.append(int.from_bytes(self.read(size), "little", signed=signed))

    def long_integer(self) -> None:
        size = self.read(1)[0]
        if size > MAX_INTEGER_BYTES:
            raise CheckpointError("it holds a number that is too large")
        self.integer(size, signed=True)

    def real(self) -> None:
        self.stack.append(struct.unpack(">d", self.read(8))[0])

    def text(self) -> None:
        size = int.from_bytes(self.read(4), "little")
        self.stack.append(str(self.read(size), "utf-8", "surrogatepass"))

    # ---- containers ----------------------------------------------------------------------------------------------

    def container(self, value: Any) -> None:
        """Push a new container, or what a call returned."""
        self._count_container()
        self.stack.append(value)

    def _count_container(self) -> None:
        self.containers += 1
        if self.containers > MAX_CONTAINERS:
            raise CheckpointError("it holds too many containers")

    def mark(self) -> None:
        self._count_container()
        self.outer.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """Pop and return the items after the last mark."""
        items, self.stack = self.stack, self.outer.pop()
        return items

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise CheckpointError("its pickle is damaged")
        del self.stack[-count:]
        self.container(items)

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise CheckpointError("its pickle is damaged")
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        """Put keys and values, one after the other, into the dictionary on the stack."""
        keys, values = items[::2], items[1::2]
        if not isinstance(self.stack[-1], dict) or len(keys) != len(values):
            raise CheckpointError("its pickle is damaged")
        if not _are_keys(keys):
            raise CheckpointError("a key of a dictionary is neither a text nor a number of 64 bits")
        self.stack[-1].update(zip(keys, values, strict=True))

    # ---- memo of values that occur more than once ----------------------------------------------------------------

    def put(self, size: int) -> None:
        self.memo[int.from_bytes(self.read(size), "little")] = self.stack[-1]
        if len(self.memo) > MAX_MEMO:
            raise CheckpointError("it holds too many values")

    def get(self, size: int) -> None:
        self.stack.append(self.memo[int.from_bytes(self.read(size), "little")])

    # ---- tensors and other objects -------------------------------------------------------------------------------

    def name(self) -> None:
        module, name = (self.readline(100).decode().removesuffix("\n") for _ in range(2))
        if f"{module} {name}" not in self.names:
            raise CheckpointError(
                f"it contains {f'{module}.{name}'[:80]!r}, and what could run code is not loaded: a checkpoint may contain "
                "only tensors and plain values"
            )
        self.stack.append(self.names[f"{module} {name}"])

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not partial or not isinstance(arguments, tuple):
            raise CheckpointError("its pickle calls something that is not allowed")
        self._count_copied(*(argument for argument in arguments if isinstance(argument, str | bytes | list | dict)))
        self.container(function(*arguments))

    def _count_copied(self, *copied: Any) -> None:
        self.may_copy -= sum(map(len, copied))
        if self.may_copy < 0:
            raise CheckpointError("it copies the same values again and again")

    def storage(self) -> None:
        persistent_id = self.stack.pop()
        if not isinstance(persistent_id, tuple) or len(persistent_id) != 5:
            raise CheckpointError("the description of a storage is invalid")
        _, dtype, key, _, count = persistent_id
        self.stack.append(self.archive.storage(key, dtype, count))

    def attributes(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, np.ndarray) and isinstance(state, tuple):
            self._count_copied(state[-1])
            fill(target, state)
        elif isinstance(target, np.dtype):
            check_dtype_state(state)
        elif type(target) is not OrderedDict or type(state) is not dict or set(state) != {"_metadata"}:
            raise CheckpointError("it changes an object in a way that is not allowed")
        elif not isinstance(state["_metadata"], dict):
            raise CheckpointError("the versions of its layers are damaged")
        else:
            target._metadata = state["_metadata"]  # type: ignore[attr-defined]

    def protocol(self) -> None:
        if self.read(1) != b"\2":
            raise CheckpointError("the protocol of its pickle is not 2")


def _refusal(code: bytes) -> str:
    if not code:
        return "its pickle is cut off"
    return (
        "it contains more than tensors and plain values, and what could run code is not loaded "
        f"(instruction {code[0]:#x} of its pickle)"
    )


_INSTRUCTIONS: dict[bytes, Callable[[_Unpickler], None]] = {
    pickle.PROTO: _Unpickler.protocol,
    pickle.NONE: lambda reader: reader.constant(None),
    pickle.NEWTRUE: lambda reader: reader.constant(True),
    pickle.NEWFALSE: lambda reader: reader.constant(False),
    pickle.BININT1: lambda reader: reader.integer(1),
    pickle.BININT2: lambda reader: reader.integer(2),
    pickle.BININT: lambda reader: reader.integer(4, signed=True),
    pickle.LONG1: _Unpickler.long_integer,
    pickle.BINFLOAT: _Unpickler.real,
    pickle.BINUNICODE: _Unpickler.text,
    pickle.MARK: _Unpickler.mark,
    pickle.EMPTY_TUPLE: lambda reader: reader.constant(()),
    pickle.EMPTY_LIST: lambda reader: reader.container([]),
    pickle.EMPTY_DICT: lambda reader: reader.container({}),
    pickle.TUPLE: lambda reader: reader.constant(tuple(reader.since_mark())),
    pickle.TUPLE1: lambda reader: reader.tuple_of(1),
    pickle.TUPLE2: lambda reader: reader.tuple_of(2),
    pickle.TUPLE3: lambda reader: reader.tuple_of(3),
    pickle.APPEND: lambda reader: reader.extend([reader.stack.pop()]),
    pickle.APPENDS: lambda reader: reader.extend(reader.since_mark()),
    pickle.SETITEM: lambda reader: reader.update([reader.stack.pop(-2), reader.stack.pop()]),
    pickle.SETITEMS: lambda reader: reader.update(reader.since_mark()),
    pickle.BINPUT: lambda reader: reader.put(1),
    pickle.LONG_BINPUT: lambda reader: reader.put(4),
    pickle.BINGET: lambda reader: reader.get(1),
    pickle.LONG_BINGET: lambda reader: reader.get(4),
    pickle.GLOBAL: _Unpickler.name,
    pickle.REDUCE: _Unpickler.call,
    pickle.BINPERSID: _Unpickler.storage,
    pickle.BUILD: _Unpickler.attributes,
}
"""The supported instructions of a pickle."""


_CONTAINERS = (dict, OrderedDict, Counter, list, tuple, set, frozenset, torch.Size)
_SCALARS = (float, bool, type(None), complex, torch.dtype)
_TENSORS = (Tensor, nn.Parameter)
_SIZE_OF_TENSOR = 64
"""Size of a tensor, counted as for `MAX_SIZE`: its description has at least that many bytes."""


class _Tree:
    """Measures the values of a checkpoint.

    Args:
        new: the checkpoint has not been written yet; tensors and integers are checked too.
    """

    def __init__(self, new: bool = False) -> None:
        self.new = new
        self.scalars = _SCALARS if new else (*_SCALARS, int, *_TENSORS)
        self.measured: dict[int, tuple[int, int]] = {}
        """The size and the height of each container."""
        self.bytes_of_tensors = 0

    def measure(self, value: Any, depth: int = 0) -> tuple[int, int]:
        """Return the size and the height of a value that is in `depth` containers."""
        kind = type(value)
        if kind in _CONTAINERS:
            return self._measure_container(value, depth)
        if kind is str or kind is bytes:
            return 4 + len(value), 0
        if kind is int and self.new and value.bit_length() >= 8 * MAX_INTEGER_BYTES:
            raise CheckpointError("it holds a number that is too large")
        if kind in _TENSORS:
            self._check_tensor(value)
            return _SIZE_OF_TENSOR, 0
        if kind is int or kind in _SCALARS:
            return 1, 0
        if is_plain_array(value):
            return _SIZE_OF_TENSOR + value.nbytes, 0
        raise CheckpointError(f"it contains a value that is not data ({kind.__name__.strip('_').lower()})")

    def _check_tensor(self, tensor: Tensor) -> None:
        if not self.new:
            return
        if tensor.layout != torch.strided or tensor.dtype not in _ALL_DTYPES or tensor.device.type == "meta":
            raise CheckpointError(f"it contains a tensor of a kind that is not read ({tensor.dtype}, {tensor.layout})")
        if tensor.is_conj() or tensor.is_neg() or vars(tensor):
            raise CheckpointError("it contains a tensor with attributes, or a lazy conjugate")
        size = tensor.numel() * tensor.itemsize
        if size > tensor.untyped_storage().nbytes():
            raise CheckpointError("it contains a tensor that is larger than its storage, as expand() makes; clone() it")
        self.bytes_of_tensors += size

    def _measure_container(self, value: Any, depth: int) -> tuple[int, int]:
        if depth >= MAX_DEPTH:
            raise CheckpointError(_TOO_DEEP)
        measured = self.measured.get(id(value))
        if measured is None:
            size, height = 1, 0
            for part in self._parts(value):
                for inner in part:
                    kind = type(inner)
                    if kind is str:
                        size += 4 + len(inner)
                    elif kind in self.scalars:
                        size += 1
                    else:
                        below = self.measure(inner, depth + 1)
                        size += below[0]
                        height = max(height, below[1] + (type(inner) in _CONTAINERS))
            measured = self.measured[id(value)] = size, height
            if size > MAX_SIZE:
                raise CheckpointError(
                    "it describes more values than fit into memory, by referring to the same ones repeatedly"
                )
        if depth + measured[1] >= MAX_DEPTH:
            raise CheckpointError(_TOO_DEEP)
        return measured

    def _parts(self, value: Any) -> list[Any]:
        """Return the iterables of the keys and values of a container."""
        if not isinstance(value, dict):
            if self.new and isinstance(value, set | frozenset) and not _are_keys(value):
                raise CheckpointError("an item of a set is neither a text nor a number of 64 bits")
            return [value]
        parts: list[Any] = [value.keys(), value.values()]
        if type(value) is OrderedDict and value.__dict__:
            parts.append(value.__dict__.values())
        if self.new:
            if not _are_keys(value):
                raise CheckpointError("a key of a dictionary is neither a text nor a number of 64 bits")
            if type(value) is OrderedDict and value.__dict__.keys() - {"_metadata"}:
                raise CheckpointError("a dictionary has attributes")
        return parts


_TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels, or contains itself"
