"""A text that is larger than memory: read in pieces, its tokens kept on disk and mapped into memory page by page."""

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from src.core.resources import shown_bytes
from src.datamodules.tokenizers.factory import Tokens, from_plain

log = logging.getLogger(__name__)

LARGEST_FACTS = 2**26
"""Bytes of the largest file of facts."""
_FOLDER = re.compile(r"[0-9a-f]{16}")
FACTS = "facts.json"
"""The file beside the tokens that says how many there are, and holds their vocabulary."""
PIECE = 1 << 20
"""Characters that are read and cut into tokens at once; a piece ends with a line where lines are shorter."""


def pieces(path: Path) -> Iterator[str]:
    """Yield a text file in pieces.

    Raises:
        UserError: if it cannot be read, or is no text in UTF-8.
    """
    place = 0
    try:
        with open_text_file(path) as contents, TextIOWrapper(contents, encoding="utf-8-sig") as file:
            while piece := file.read(PIECE):
                piece += file.readline(PIECE)
                if "\0" in piece:  # a sparse file of terabytes holds nothing else
                    raise UserError(f"{path}: this is not a text file: it contains NUL characters")
                yield piece
                place += len(piece)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: this is no text in UTF-8 (behind character {place:,}: {error.reason})") from error
    except OSError as error:
        raise UserError(f"{path}: this file cannot be read: {error.strerror}") from error


def cut(text: str) -> Iterator[str]:
    """Yield a text in the pieces that `pieces` would read of its file."""
    start = 0
    while start < len(text):
        line = text.find("\n", start + PIECE, start + 2 * PIECE)
        end = line + 1 if line >= 0 else start + 2 * PIECE
        yield text[start:end]
        start = end


def between(texts: Iterable[str], start: int, stop: int) -> Iterator[str]:
    """Yield the characters `start` to `stop` of a text in pieces."""
    place = 0
    for piece in texts:
        if place >= stop:
            return
        if wanted := piece[max(start - place, 0) : stop - place]:
            yield wanted
        place += len(piece)


def tokens_on_disk(
    path: Path,
    parts: Mapping[str, tuple[int, int]],
    kind: str,
    settings: Mapping[str, object],
    known: Tokens | None,
    learn: Callable[[Iterator[str]], Tokens],
    cache: Path,
) -> tuple[Tokens, dict[str, Tensor]]:
    """Return the vocabulary of a text and the tokens of its parts [N] int32, mapped into memory.

    They are written once, and found again as long as the file and what is asked of it stay the same.

    Args:
        path: the text.
        parts: the first character and the one behind the last, of ``train`` and the others.
        kind: of the tokens, see `src.datamodules.tokenizers.factory`.
        settings: everything else that the tokens follow from.
        known: the vocabulary, where a checkpoint brought one; None learns it of the training part.
        learn: learns it of pieces of text.
        cache: the folder for such files.

    Raises:
        UserError: if the text cannot be read, or the tokens cannot be written.
    """
    stat = path.stat()
    state = [str(path.absolute()), stat.st_size, stat.st_mtime_ns]
    facts = [*state, dict(parts), kind, dict(settings), known.to_plain() if known is not None else None]
    folder = cache / hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    try:
        if (found := _kept(folder, parts, kind, known)) is None:
            cache.parent.mkdir(parents=True, exist_ok=True)
            make_folder_below(cache.parent, cache.name)  # never through a link
            folder.unlink() if folder.is_symlink() else shutil.rmtree(folder, ignore_errors=True)
            _write(folder, path, parts, known, learn, state)
            _remove_older(cache, state)
            found = _kept(folder, parts, kind, known)
        if found is None:
            raise UserError(f"{folder}: another process has changed these tokens; give the command again")
    except OSError as error:
        raise UserError(
            f"{folder}: the tokens of {path} cannot be kept there ({error.strerror}); paths.data names another folder"
        ) from error
    size = shown_bytes(4 * sum(map(len, found[1].values())))
    log.info("%s: tokens on disk, %s in %s, mapped into memory", path, size, folder)
    return found


def _kept(
    folder: Path, parts: Iterable[str], kind: str, known: Tokens | None
) -> tuple[Tokens, dict[str, Tensor]] | None:
    """Return the vocabulary and the tokens that were kept, or None where something is missing, cut off, or damaged.

    The folder of data may come from someone else with this cache in it.
    """
    if folder.parent.is_symlink():
        return None
    try:
        facts = _facts(folder)
        files = {name: Path(folder.name, f"{name}.int32") for name in parts}
        if all(
            is_file_below(folder.parent, file) and (folder.parent / file).stat().st_size == 4 * facts["tokens"][name]
            for name, file in files.items()
        ):
            vocabulary = known or from_plain(kind, facts["vocabulary"])
            tokens = {name: _mapped(folder.parent / file) for name, file in files.items()}
            if all(part.min() >= 0 and part.max() < len(vocabulary) for part in tokens.values() if len(part)):
                return vocabulary, tokens
    except (OSError, ValueError, KeyError, TypeError, UserError):
        pass
    return None


def _facts(folder: Path) -> Any:
    """Return what is recorded beside tokens; no link is followed."""
    return read_json(folder.parent, Path(folder.name, FACTS), LARGEST_FACTS)


def _remove_older(cache: Path, state: list[Any]) -> None:
    """Remove the tokens of a text as it was before it changed."""
    for folder in cache.iterdir():
        if not _FOLDER.fullmatch(folder.name) or folder.is_symlink():
            continue
        with suppress(OSError, ValueError, KeyError, TypeError, UserError):
            before = _facts(folder)["text"]
            if before[0] == state[0] and before != state:
                shutil.rmtree(folder)


def _write(
    folder: Path,
    path: Path,
    parts: Mapping[str, tuple[int, int]],
    known: Tokens | None,
    learn: Callable[[Iterator[str]], Tokens],
    state: list[Any],
) -> None:
    """Fill a folder beside its place and move it there when it is complete."""
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    partial.mkdir()
    try:
        vocabulary = known or learn(between(pieces(path), *parts["train"]))
        counts = {}
        for name, (start, stop) in parts.items():
            with (partial / f"{name}.int32").open("wb") as file:
                for piece in between(pieces(path), start, stop):
                    np.array(vocabulary.encode(piece), dtype=np.int32).tofile(file)
                counts[name] = file.tell() // 4
        (partial / FACTS).write_text(json.dumps({"text": state, "tokens": counts, "vocabulary": vocabulary.to_plain()}))
        try:
            os.replace(partial, folder)
        except OSError:
            if not folder.is_dir():  # another process was faster, with the same contents
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _mapped(file: Path) -> Tensor:
    count = file.stat().st_size // 4
    return torch.from_file(str(file), shared=False, size=count, dtype=torch.int32)
