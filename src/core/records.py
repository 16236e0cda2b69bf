"""Parse records that may come from someone else: bounded in size and depth, and without YAML anchors and tags.

Gridlight writes records as UTF-8 JSON and as plain YAML. Anything else raises `RecordError`, so that a reader of many records
can report the bad one and continue with the others.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Literal

import yaml
from pydantic_core import CoreSchema, SchemaValidator, ValidationError, from_json
from pydantic_core import core_schema as core

from src.core.errors import UserError, first_line
from src.core.files import MAX_RECORD_BYTES, read_below

FORMAT_VERSION = 3
"""The version of the files of run folders and sweeps that this code writes and reads."""

MAX_DEPTH = 64
"""Maximum nesting depth of the containers of a record."""


class RecordError(UserError):
    """A record is damaged: it is not UTF-8, cannot be parsed, is nested too deep, or has a value of a wrong type."""


class VersionError(RecordError):
    """A record has another format version than the one that this code reads."""

    def __init__(self, name: object, version: object) -> None:
        self.reason = f"format version {str(version)[:20]}, and this code reads version {FORMAT_VERSION}"
        super().__init__(f"{name}: {self.reason}")


def parse_json(text: bytes | str, name: object) -> Any:
    """Return the value of a JSON text.

    Args:
        text: in UTF-8.
        name: name of the record, such as a path, for the error.

    Raises:
        RecordError: if it is not JSON, is nested deeper than `MAX_DEPTH`, or has an integer that does not fit into a float.
    """
    try:
        try:
            value = from_json(text)
        except (ValueError, TypeError):  # the parser of Python is several times slower, but accepts single surrogates
            value = json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RecordError(f"{name}: this is not UTF-8 text (byte {error.start})") from error
    except RecursionError as error:
        raise RecordError(f"{name}: nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise RecordError(f"{name}: this is not JSON ({error})") from error
    _check_values(value, name)
    return value


def object_schema(
    required: Mapping[str, CoreSchema],
    optional: Mapping[str, CoreSchema],
    others: Literal["allow", "ignore", "forbid"] = "ignore",
) -> CoreSchema:
    """Return the schema of an object whose values have exactly the types of their schemas.

    Args:
        required: the schemas of the required keys.
        optional: the schemas of the optional keys.
        others: whether other keys are allowed, ignored, or an error.
    """
    fields = {key: core.typed_dict_field(schema) for key, schema in required.items()}
    fields |= {key: core.typed_dict_field(schema, required=False) for key, schema in optional.items()}
    return core.typed_dict_schema(fields, extra_behavior=others, config=core.CoreConfig(strict=True))


def check_schema(schema: SchemaValidator, value: Any, name: object) -> Any:
    """Return a parsed value after validating it against a schema.

    Args:
        schema: schema of the record.
        value: the parsed record.
        name: name of the record, for the error.

    Raises:
        RecordError: if keys or types do not match the schema; the message names the first of them.
    """
    try:
        return schema.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))[:80]
        raise RecordError(f"{name}: {key}: {first['msg']}" if key else f"{name}: {first['msg']}") from error


MAX_INTEGER = 10**300


def _check_values(value: Any, name: object) -> None:
    """Raise `RecordError` if containers are nested deeper than `MAX_DEPTH`, or if an integer does not fit into a float."""
    level: list[Any] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        values = [item for inner in level for item in (inner.values() if type(inner) is dict else inner)]
        for item in values:
            if type(item) is int and not -MAX_INTEGER < item < MAX_INTEGER:
                raise RecordError(f"{name}: an integer has more than 300 digits")
        level = [item for item in values if type(item) is dict or type(item) is list]
        if not level:
            return
    raise RecordError(f"{name}: nested deeper than {MAX_DEPTH} levels")


def read_json(root: Path, name: str | PurePath, limit: int = MAX_RECORD_BYTES) -> Any:
    """Return the value of a JSON file below a folder.

    Raises:
        OSError: if there is no such file.
        UserError: if it is a link, not a regular file, too large, or not JSON.
    """
    return parse_json(read_below(root, name, limit), os.path.join(root, name))


MAX_FILE_BYTES = 2**30
"""Maximum size of a file that is read line by line, in bytes."""


MAX_LINES = 1_000_000
"""Maximum number of lines of a file that is read line by line."""


def read_lines(
    file: BinaryIO, name: object, limit: int = MAX_RECORD_BYTES, max_lines: int = MAX_LINES
) -> Iterator[bytes]:
    """Yield the lines of a file, with their line feeds, without reading the whole file into memory.

    Args:
        file: open for reading.
        name: name of the file, for the error.
        limit: maximum size of a line in bytes.
        max_lines: maximum number of lines.

    Raises:
        RecordError: if a line is longer or contains NUL bytes, as a sparse file does, or if the file has more than
            `max_lines` lines or `MAX_FILE_BYTES` bytes.
    """
    count = total = 0
    while text := file.readline(limit + 1):
        count += 1
        total += len(text)
        if count > max_lines:
            raise RecordError(f"{name}: this file has more than {max_lines:,} lines")
        if len(text) > limit:
            raise RecordError(f"{name}: a line has more than {limit / 2**20:,.0f} MiB")
        if total > MAX_FILE_BYTES:
            raise RecordError(f"{name}: this file has more than {MAX_FILE_BYTES / 2**20:,.0f} MiB")
        if b"\0" in text:
            raise RecordError(f"{name}: this is not a text file: it contains NUL bytes")
        yield text


def line_groups(file: BinaryIO, name: object, limit: int, size: int = 2**20) -> Iterator[bytes]:
    """Yield a file in groups of whole lines.

    Args:
        file, name: as in `read_lines`.
        limit: maximum size of a line in bytes, rounded up to a multiple of `size`.
        size: approximate size of a group in bytes.

    Raises:
        RecordError: if a line is longer than `limit`, or the file than `MAX_FILE_BYTES`.
    """
    group: list[bytes] = []
    read = 0
    while text := file.read(size):
        read += len(text)
        if read > MAX_FILE_BYTES:
            raise RecordError(f"{name}: this file has more than {MAX_FILE_BYTES / 2**30:g} GiB")
        head, end, tail = text.rpartition(b"\n")
        if end:
            yield b"".join((*group, head, end))
            group = []
        group.append(tail)
        if len(group) * size > max(limit, size):
            raise RecordError(f"{name}: a line has more than {limit / 2**20:,.0f} MiB")
    if last := b"".join(group):
        yield last


MAX_YAML_NODES = 200_000
"""Maximum number of containers and scalars of a YAML text, because the parser is slow."""

_ANCHOR = re.compile(r"(?:^|[\s\[{,:-])[&*][^\s,\[\]{}]")
"""A possible anchor or alias; ordinary text may match too."""

_DEEP = re.compile(rf"(?:^|\n)[ \t?:-]{{{MAX_DEPTH - 2},}}")
"""A line that may be nested deeper than `MAX_DEPTH`."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads null, booleans, integers and floats of the JSON schema of YAML 1.2, and all other scalars as text."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]{1,300}", list("-+0123456789")),  # fits into a float
    (
        "float",
        r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
        r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))


def parse_yaml(text: bytes | str, name: object) -> Any:
    """Return the value of a YAML text of plain containers and scalars.

    Anchors are refused, because ten lines of them can describe billions of values, and so are explicit tags.

    Raises:
        RecordError: if it is not plain YAML, is nested deeper than `MAX_DEPTH`, or has more values than `MAX_YAML_NODES`.
    """
    try:
        plain = text if isinstance(text, str) else text.decode("utf-8")
        if len(plain) > MAX_YAML_NODES and sum(map(plain.count, ",:-?[{")) > MAX_YAML_NODES:
            raise RecordError(f"{name}: more than {MAX_YAML_NODES:,} values")
        if _ANCHOR.search(plain) or plain.count("[") + plain.count("{") >= MAX_DEPTH or _DEEP.search(plain):
            _check_events(plain, name)  # the composer of libyaml recurses without limit
        value = yaml.load(plain, _Loader)
    except RecordError:
        raise
    except UnicodeDecodeError as error:
        raise RecordError(f"{name}: this is not UTF-8 text (byte {error.start})") from error
    except RecursionError as error:
        raise RecordError(f"{name}: nested deeper than {MAX_DEPTH} levels") from error
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:
        problem = getattr(error, "problem", None) or first_line(error)
        raise RecordError(f"{name}: this is not plain YAML ({problem})") from error
    _check_values(value, name)
    return value


def _check_events(text: str, name: object) -> None:
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise RecordError(f"{name}: anchors and aliases of YAML are not allowed in a recorded file")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise RecordError(f"{name}: nested deeper than {MAX_DEPTH} levels")
