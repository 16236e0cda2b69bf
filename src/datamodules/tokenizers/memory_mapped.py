"""Tokenize a text that is larger than memory: read it in chunks, and store the tokens in memory-mapped files."""

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.core.errors import UserError
from src.core.files import is_file_below, make_folder_below, open_text_file
from src.core.records import read_json
from src.core.resources import format_bytes
from src.datamodules.tokenizers.factory import Tokens, fit_tokenizer, from_plain

log = logging.getLogger(__name__)

MAX_METADATA_BYTES = 2**26
"""Largest metadata file."""
_FOLDER = re.compile(r"[0-9a-f]{16}")
METADATA = "metadata.json"
"""File beside the tokens with their number and the vocabulary."""
CHUNK_CHARACTERS = 1 << 20
"""Characters that are read and tokenized at once; a chunk ends at a line end unless a line is longer."""


def read_chunks(path: Path) -> Iterator[str]:
    """Yield the contents of a text file in chunks.

    Raises:
        UserError: if the file cannot be read, or is not UTF-8 text.
    """
    position = 0
    try:
        with open_text_file(path) as contents, TextIOWrapper(contents, encoding="utf-8-sig") as file:
            while chunk := file.read(CHUNK_CHARACTERS):
                chunk += file.readline(CHUNK_CHARACTERS)
                if "\0" in chunk:  # also stops early in a sparse file of terabytes
                    raise UserError(f"{path}: this is not a text file: it contains NUL characters")
                yield chunk
                position += len(chunk)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: this file is not UTF-8 text (after character {position:,}: {error.reason})"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: this file cannot be read: {error.strerror}") from error


def split_chunks(text: str) -> Iterator[str]:
    """Yield a text in the same chunks as `read_chunks` reads them from a file."""
    start = 0
    while start < len(text):
        line = text.find("\n", start + CHUNK_CHARACTERS, start + 2 * CHUNK_CHARACTERS)
        end = line + 1 if line >= 0 else start + 2 * CHUNK_CHARACTERS
        yield text[start:end]
        start = end


def slice_chunks(chunks: Iterable[str], start: int, stop: int) -> Iterator[str]:
    """Yield the characters `start` to `stop` of a text in chunks."""
    position = 0
    for chunk in chunks:
        if position >= stop:
            return
        if selected := chunk[max(start - position, 0) : stop - position]:
            yield selected
        position += len(chunk)


def tokens_on_disk(
    path: Path,
    parts: Mapping[str, tuple[int, int]],
    kind: str,
    vocabulary_size: int,
    vocabulary: Tokens | None,
    cache: Path,
) -> tuple[Tokens, dict[str, Tensor]]:
    """Return the vocabulary of a text and the memory-mapped tokens [N] int32 of its splits.

    The tokens are written once and reused as long as the file and the arguments do not change.

    Args:
        path: the text file.
        parts: start and end of each split in characters; ``train`` is required to fit a vocabulary.
        kind: kind of tokens, see `src.datamodules.tokenizers.factory`.
        vocabulary_size: number of tokens, for byte pairs.
        vocabulary: vocabulary of a checkpoint; None: fit one to the training split.
        cache: folder of the token files.

    Raises:
        UserError: if the text cannot be read, or the tokens cannot be written.
    """
    stat = path.stat()
    source = [str(path.absolute()), stat.st_size, stat.st_mtime_ns]
    key = [*source, dict(parts), kind, vocabulary_size, vocabulary.to_plain() if vocabulary is not None else None]
    folder = cache / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    try:
        if (cached := _read_cache(folder, parts, kind, vocabulary)) is None:
            cache.parent.mkdir(parents=True, exist_ok=True)
            make_folder_below(cache.parent, cache.name)  # does not follow links
            folder.unlink() if folder.is_symlink() else shutil.rmtree(folder, ignore_errors=True)
            if vocabulary is None:
                training = slice_chunks(read_chunks(path), *parts["train"])
                vocabulary = fit_tokenizer(kind, training, vocabulary_size, sentences=False)
            _write_cache(folder, path, parts, vocabulary, source)
            _remove_outdated(cache, source)
            cached = _read_cache(folder, parts, kind, vocabulary)
        if cached is None:
            raise UserError(f"{folder}: another process has changed these tokens; run the command again")
    except OSError as error:
        raise UserError(
            f"{folder}: the tokens of {path} cannot be written there ({error.strerror}); set paths.data to another folder"
        ) from error
    size = format_bytes(4 * sum(map(len, cached[1].values())))
    log.info("%s: tokens on disk, %s in %s, mapped into memory", path, size, folder)
    return cached


def _read_cache(
    folder: Path, parts: Iterable[str], kind: str, vocabulary: Tokens | None
) -> tuple[Tokens, dict[str, Tensor]] | None:
    """Return the vocabulary and the tokens of a cache folder, or None if a file is missing, truncated, or damaged.

    The data folder may come from someone else, with the cache in it.
    """
    if folder.parent.is_symlink():
        return None
    try:
        metadata = read_json(folder.parent, Path(folder.name, METADATA), MAX_METADATA_BYTES)  # does not follow links
        vocabulary = vocabulary or from_plain(kind, metadata["vocabulary"])
        tokens = {}
        for name in parts:
            file, count = folder / f"{name}.int32", metadata["tokens"][name]
            if not is_file_below(folder.parent, Path(folder.name, file.name)) or file.stat().st_size != 4 * count:
                return None
            tokens[name] = torch.from_file(str(file), shared=False, size=count, dtype=torch.int32)
            if count and not 0 <= tokens[name].min() <= tokens[name].max() < len(vocabulary):
                return None
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return None
    return vocabulary, tokens


def _remove_outdated(cache: Path, source: list[Any]) -> None:
    """Remove the tokens of earlier versions of a text."""
    for folder in cache.iterdir():
        if not _FOLDER.fullmatch(folder.name) or folder.is_symlink():
            continue
        with suppress(OSError, ValueError, KeyError, TypeError, UserError):
            recorded = read_json(cache, Path(folder.name, METADATA), MAX_METADATA_BYTES)["text"]
            if recorded[0] == source[0] and recorded != source:
                shutil.rmtree(folder)


def _write_cache(
    folder: Path,
    path: Path,
    parts: Mapping[str, tuple[int, int]],
    vocabulary: Tokens,
    source: list[Any],
) -> None:
    """Write the tokens and their metadata to a temporary folder, and rename it when it is complete."""
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    partial.mkdir()
    try:
        counts = {}
        for name, (start, stop) in parts.items():
            with (partial / f"{name}.int32").open("wb") as file:
                for chunk in slice_chunks(read_chunks(path), start, stop):
                    np.array(vocabulary.encode(chunk), dtype=np.int32).tofile(file)
                counts[name] = file.tell() // 4
        (partial / METADATA).write_text(
            json.dumps({"text": source, "tokens": counts, "vocabulary": vocabulary.to_plain()})
        )
        try:
            os.replace(partial, folder)
        except OSError:
            if not folder.is_dir():  # another process was faster, with the same contents
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
