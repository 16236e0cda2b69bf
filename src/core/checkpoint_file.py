"""Reading files of ``torch.save`` that may come from someone else, as data.

A checkpoint is a zip archive of a pickle and of the storages of its tensors. The functions below read both themselves, so
that what is checked is what is used: no code is imported or called, no storage is larger than the bytes in the file, and the
time and the memory that a file costs follow from its size. Whatever ``torch.load(…, weights_only=True)`` reads of a file that
Gridlight wrote is read alike; other formats (pickles without an archive, TorchScript) are refused.
"""

import os
import re
import struct
import sys
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from src.core.errors import UserError, first_line
from src.core.files import UnsafeFileError, open_below, open_data_file

MAX_PICKLE_BYTES = 64 * 2**20
"""The largest pickle of a checkpoint; tensors are not part of it."""
MAX_DIRECTORY_BYTES = 8 * 2**20
"""The largest table of contents of the archive, which has some 70 bytes for each tensor."""
MAX_DEPTH = 64
"""How deep the containers of a checkpoint may be nested."""
MAX_SIZE = 2**27
"""How many values and characters a checkpoint may hold, where shared containers count as often as they occur."""
MAX_CONTAINERS = 2**20
"""How many containers a pickle may make, each of which takes far more memory than its byte in the file."""
MAX_NAMED = 2**22
"""How many values a pickle may keep to name them again."""
MAX_SHARING = 8
"""How many times as large as their storages the tensors of a checkpoint may be, as tensors may share a storage."""

_END = struct.Struct("<4s4H2LH")
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


class CheckpointError(UserError):
    """A file is not a checkpoint that can be read as data."""


def read_checkpoint_file(path: Path, root: Path | None = None) -> Any:
    """Return what ``torch.save`` wrote, with its tensors on the CPU.

    Args:
        path: the file.
        root: a folder above it, below which no component of the path may be a link; None follows every link.

    Raises:
        OSError: if there is no such file.
        UserError: if it is not a regular file, damaged, or holds more than tensors and plain containers.
    """
    with open_data_file(path) if root is None else open_below(root, path.relative_to(root)) as file:
        try:
            return _Archive(file).load()
        except (CheckpointError, UnsafeFileError) as error:
            raise CheckpointError(f"{path}: this checkpoint cannot be read: {error}") from error
        except Exception as error:
            raise CheckpointError(
                f"{path}: this checkpoint cannot be read: it is damaged ({first_line(error)[:200]})"
            ) from error


class _Archive:
    """The archive of a checkpoint.

    Args:
        file: opened for reading, at any position.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self._check_end()
        with zipfile.ZipFile(file) as archive:
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
            start = self._data_of(member)
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
        self.storages: dict[str, tuple[torch.dtype, int, torch.UntypedStorage]] = {}
        self.bytes_of_tensors = 0

    def _check_end(self) -> None:
        """Raise `CheckpointError` unless the file ends as an archive does, with a table of contents of a sane size."""
        self.file.seek(max(self.size - _END.size, 0))
        tail = self.file.read(_END.size)
        if len(tail) < _END.size or tail[:4] != b"PK\5\6" or tail[-2:] != b"\0\0":
            raise CheckpointError("it is not a file of torch.save, or it is cut off; what could run code is not loaded")
        length = _END.unpack(tail)[5]
        if length == 0xFFFFFFFF or b"PK\6\7" in self._before_end():
            found = self._before_end().rpartition(b"PK\6\6")[2]
            length = int.from_bytes(found[36:44], "little") if len(found) >= 44 else self.size
        if length > min(MAX_DIRECTORY_BYTES, self.size):
            raise CheckpointError("its archive has too many files")

    def _before_end(self) -> bytes:
        self.file.seek(max(self.size - 76 - _END.size, 0))
        return self.file.read(76)

    def _data_of(self, member: zipfile.ZipInfo) -> int:
        """Return where the contents of a member begin."""
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

    def storage(self, key: object, dtype: object, count: object) -> tuple[torch.dtype, int, torch.UntypedStorage]:
        """Return the type, the number of elements, and the contents of a storage, which several tensors may share."""
        if not isinstance(key, str) or not isinstance(dtype, torch.dtype) or type(count) is not int or count < 0:
            raise CheckpointError("a storage is described wrongly")
        if key in self.storages:
            found = self.storages[key]
            if found[:2] != (dtype, count):
                raise CheckpointError(f"storage {key[:20]} is described in two ways")
            return found
        start, member = self.members.get(f"data/{key}", (0, None))
        if member is None or member.file_size != count * dtype.itemsize:
            raise CheckpointError(f"storage {key[:20]} does not have the declared size")
        contents = torch.empty(member.file_size, dtype=torch.uint8)
        if member.file_size:
            view = memoryview(contents.numpy())  # type: ignore[arg-type]
            self.file.seek(start)
            if self.file.readinto(view) != member.file_size:  # type: ignore[attr-defined]
                raise CheckpointError("it is cut off")
            self._check_sum(view, member)
            if dtype == torch.bool and int(contents.max()) > 1:
                raise CheckpointError(f"storage {key[:20]} holds something else than true and false")
        self.storages[key] = dtype, count, contents.untyped_storage()
        return self.storages[key]

    def tensor(self, storage: object, offset: object, shape: object, stride: object, *rest: object) -> Tensor:
        """Return a tensor in a storage, as ``torch._utils._rebuild_tensor_v2`` does."""
        if (
            not isinstance(storage, _Storage)
            or not _are_sizes(shape)
            or not _are_sizes(stride)
            or type(offset) is not int
        ):
            raise CheckpointError("a tensor is described wrongly")
        if len(rest) < 1 or type(rest[0]) is not bool or len(shape) != len(stride) or offset < 0:  # type: ignore[arg-type]
            raise CheckpointError("a tensor is described wrongly")
        dtype, count, contents = storage.facts
        numel, last = 1, offset
        for size, step in zip(shape, stride, strict=True):  # type: ignore[call-overload]
            numel *= size
            last += max(size - 1, 0) * step
        if (numel and last >= count) or numel > count:
            raise CheckpointError("a tensor is larger than its storage")
        self.bytes_of_tensors += numel * dtype.itemsize
        if self.bytes_of_tensors > MAX_SHARING * self.size + 2**20:
            raise CheckpointError("its tensors are together far larger than the file")
        made = torch.empty(0, dtype=dtype).set_(contents, offset, shape, stride)  # type: ignore[call-overload]
        return made.requires_grad_() if rest[0] and dtype.is_floating_point else made  # type: ignore[no-any-return]

    def load(self) -> Any:
        """Return the value of the pickle."""
        value = _Pickle(self).load(self.read("data.pkl", MAX_PICKLE_BYTES))
        check_tree(value)
        return value


def _are_sizes(value: object) -> bool:
    return (
        isinstance(value, tuple) and len(value) <= 64 and all(type(size) is int and 0 <= size < 2**48 for size in value)
    )


class _Storage:
    """A storage on the stack of the pickle."""

    __slots__ = ("facts",)

    def __init__(self, facts: tuple[torch.dtype, int, torch.UntypedStorage]) -> None:
        self.facts = facts


class _Name:
    """The name of a class or function that a pickle may use, on the stack."""

    __slots__ = ("call", "dtype")

    def __init__(self, call: Callable[..., Any] | None = None, dtype: torch.dtype | None = None) -> None:
        self.call, self.dtype = call, dtype


def _ordered(*items: Any) -> OrderedDict[Any, Any]:
    if items and not (len(items) == 1 and isinstance(items[0], list) and not items[0]):
        raise CheckpointError("a dictionary is described wrongly")
    return OrderedDict()


def _counter(*items: Any) -> Counter[Any]:
    if len(items) > 1 or not all(isinstance(item, dict) for item in items):
        raise CheckpointError("a counter is described wrongly")
    return Counter(*items)


def _set(*items: Any) -> set[Any]:
    if len(items) != 1 or not isinstance(items[0], list) or not all(type(item) in _KEYS for item in items[0]):
        raise CheckpointError("a set is described wrongly")
    return set(items[0])


def _size(*items: Any) -> torch.Size:
    if len(items) != 1 or not _are_sizes(items[0]):
        raise CheckpointError("a size is described wrongly")
    return torch.Size(items[0])


_KEYS = (str, int, float, bool, type(None))
_MARK = object()


class _Pickle:
    """Reads the pickle of a checkpoint: those instructions of protocol 2 that describe plain containers and tensors."""

    def __init__(self, archive: _Archive) -> None:
        self.archive = archive
        self.names = {
            "collections OrderedDict": _Name(_ordered),
            "collections Counter": _Name(_counter),
            "__builtin__ set": _Name(_set),
            "builtins set": _Name(_set),
            "torch Size": _Name(_size),
            "torch._utils _rebuild_tensor_v2": _Name(archive.tensor),
            **{f"torch {name}": _Name(dtype=dtype) for name, dtype in _DTYPES.items()},
        }

    def load(self, data: bytes) -> Any:
        stack: list[Any] = []
        outer: list[list[Any]] = []
        memo: dict[int, Any] = {}
        push = stack.append
        place = containers = 0
        while True:
            code = data[place]
            place += 1
            if code == 0x58:  # BINUNICODE
                end = place + 4 + int.from_bytes(data[place : place + 4], "little")
                if end > len(data):
                    raise CheckpointError("its pickle is cut off")
                push(data[place + 4 : end].decode("utf-8", "surrogatepass"))
                place = end
            elif code == 0x71:  # BINPUT
                memo[data[place]] = stack[-1]
                place += 1
            elif code == 0x72:  # LONG_BINPUT
                memo[int.from_bytes(data[place : place + 4], "little")] = stack[-1]
                place += 4
                if len(memo) > MAX_NAMED:
                    raise CheckpointError("it holds too many values")
            elif code == 0x68:  # BINGET
                push(memo[data[place]])
                place += 1
            elif code == 0x6A:  # LONG_BINGET
                push(memo[int.from_bytes(data[place : place + 4], "little")])
                place += 4
            elif code == 0x4B:  # BININT1
                push(data[place])
                place += 1
            elif code == 0x4D:  # BININT2
                push(data[place] | data[place + 1] << 8)
                place += 2
            elif code == 0x4A:  # BININT
                push(int.from_bytes(data[place : place + 4], "little", signed=True))
                place += 4
            elif code == 0x47:  # BINFLOAT
                push(struct.unpack_from(">d", data, place)[0])
                place += 8
            elif code == 0x28:  # MARK
                outer.append(stack)
                stack = []
                containers += 1
                if containers > MAX_CONTAINERS:
                    raise CheckpointError("it holds too many containers")
                push = stack.append
            elif code == 0x74:  # TUPLE
                items, stack = tuple(stack), outer.pop()
                push = stack.append
                push(items)
            elif code == 0x75 or code == 0x65:  # SETITEMS, APPENDS
                items_, stack = stack, outer.pop()
                push = stack.append
                _fill(stack[-1], items_, code == 0x75)
            elif code == 0x73:  # SETITEM
                value, key = stack.pop(), stack.pop()
                _fill(stack[-1], [key, value], True)
            elif code == 0x61:  # APPEND
                value = stack.pop()
                _fill(stack[-1], [value], False)
            elif code == 0x85 or code == 0x86 or code == 0x87:  # TUPLE1, TUPLE2, TUPLE3
                count = code - 0x84
                items = tuple(stack[-count:])
                if len(items) < count:
                    raise CheckpointError("its pickle is damaged")
                del stack[-count:]
                push(items)
                containers += 1
                if containers > MAX_CONTAINERS:
                    raise CheckpointError("it holds too many containers")
            elif code == 0x7D or code == 0x5D:  # EMPTY_DICT, EMPTY_LIST
                push({} if code == 0x7D else [])
                containers += 1
                if containers > MAX_CONTAINERS:
                    raise CheckpointError("it holds too many containers")
            elif code == 0x29:  # EMPTY_TUPLE
                push(())
            elif code == 0x4E:  # NONE
                push(None)
            elif code == 0x88:  # NEWTRUE
                push(True)
            elif code == 0x89:  # NEWFALSE
                push(False)
            elif code == 0x63:  # GLOBAL
                module_end = data.index(b"\n", place, place + 100)
                name_end = data.index(b"\n", module_end + 1, module_end + 100)
                name = data[place:name_end].decode().replace("\n", " ")
                if name not in self.names:
                    raise CheckpointError(
                        f"it contains {name.replace(' ', '.')[:80]!r}, and what could run code is not loaded: a checkpoint "
                        "may contain only tensors and plain values"
                    )
                push(self.names[name])
                place = name_end + 1
            elif code == 0x52:  # REDUCE
                arguments, called = stack.pop(), stack.pop()
                if not isinstance(called, _Name) or called.call is None or not isinstance(arguments, tuple):
                    raise CheckpointError("its pickle calls something that is not allowed")
                push(called.call(*arguments))
                containers += 1
                if containers > MAX_CONTAINERS:
                    raise CheckpointError("it holds too many containers")
            elif code == 0x51:  # BINPERSID
                facts = stack.pop()
                if not isinstance(facts, tuple) or len(facts) != 5 or not isinstance(facts[1], _Name):
                    raise CheckpointError("a storage is described wrongly")
                push(_Storage(self.archive.storage(facts[2], facts[1].dtype, facts[4])))
            elif code == 0x62:  # BUILD
                state = stack.pop()
                target = stack[-1]
                if type(target) is not OrderedDict or type(state) is not dict or set(state) != {"_metadata"}:
                    raise CheckpointError("it changes an object in a way that is not allowed")
                if not isinstance(state["_metadata"], dict):
                    raise CheckpointError("the versions of its layers are damaged")
                target._metadata = state["_metadata"]  # type: ignore[attr-defined]
            elif code == 0x8A:  # LONG1
                length = data[place]
                if length > 9:
                    raise CheckpointError("it holds a number that is too large")
                push(int.from_bytes(data[place + 1 : place + 1 + length], "little", signed=True))
                place += 1 + length
            elif code == 0x80:  # PROTO
                if data[place] != 2 or place != 1:
                    raise CheckpointError("its pickle has another protocol than 2")
                place += 1
            elif code == 0x2E:  # STOP
                if outer or len(stack) != 1:
                    raise CheckpointError("its pickle is damaged")
                return stack[0]
            else:
                raise CheckpointError(
                    "it contains more than tensors and plain values, and what could run code is not loaded "
                    f"(instruction {code:#x} of its pickle)"
                )


def _fill(container: Any, items: list[Any], pairs: bool) -> None:
    """Put items into a list, or keys and values, one after the other, into a dictionary."""
    if pairs:
        if not isinstance(container, dict) or len(items) % 2:
            raise CheckpointError("its pickle is damaged")
        keys = items[::2]
        if any(type(key) not in _KEYS for key in keys):
            raise CheckpointError("a key of a dictionary is neither a text nor a number")
        container.update(zip(keys, items[1::2], strict=True))
    else:
        if type(container) is not list:
            raise CheckpointError("its pickle is damaged")
        container.extend(items)


def check_tree(value: Any) -> None:
    """Raise `CheckpointError` if a value contains itself, is nested too deep, or is too large where it is written out.

    Args:
        value: of dictionaries, lists, tuples, sets, tensors, texts and numbers; a container may occur in many places.
    """
    known: dict[int, tuple[int, int]] = {}
    _size_and_height(value, known, 0)


_CONTAINERS = (dict, OrderedDict, Counter, list, tuple, set, torch.Size)
_SCALARS = (Tensor, int, float, bool, type(None))


def _size_and_height(value: Any, known: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    kind = type(value)
    if kind is str:
        return 1 + len(value), 0
    if kind in _SCALARS:
        return 1, 0
    if kind not in _CONTAINERS:
        raise CheckpointError(f"it contains a value that is not data ({kind.__name__.strip('_').lower()})")
    if depth >= MAX_DEPTH:
        raise CheckpointError(f"it is nested deeper than {MAX_DEPTH} levels, or contains itself")
    found = known.get(id(value))
    if found is None:
        size, height = 1, 0
        parts = [value]
        if isinstance(value, dict):
            parts = [value.keys(), value.values()]
            if kind is OrderedDict and value.__dict__:
                parts.append(value.__dict__.values())
        for part in parts:
            for inner in part:
                if type(inner) is str:
                    size += 1 + len(inner)
                elif type(inner) in _SCALARS:
                    size += 1
                else:
                    below = _size_and_height(inner, known, depth + 1)
                    size += below[0]
                    height = max(height, below[1] + 1)
        found = known[id(value)] = size, height
        if size > MAX_SIZE:
            raise CheckpointError(
                "it describes more values than fit into memory, by naming the same ones again and again"
            )
    if depth + found[1] >= MAX_DEPTH:
        raise CheckpointError(f"it is nested deeper than {MAX_DEPTH} levels, or contains itself")
    return found
