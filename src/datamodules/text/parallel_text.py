"""Pairs of texts of the user's, for translation: two files line by line, or one of two columns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.core.errors import UserError
from src.datamodules.io.delimited_text import read_text, split_lines
from src.datamodules.splits.holdout import split_indices
from src.datamodules.text.translation import Pair, Translating


class ParallelText(Translating):
    """Texts and their translations, read by characters, words or byte pairs.

    Args:
        path: the texts, one a line; without `target_path`, each line has its translation behind a tab.
        target_path: the translations, line by line.
        split_seed: draws the splits.
        val_fraction, test_fraction: their shares.
        rest: arguments of `Translating`.
    """

    def __init__(
        self,
        path: Path,
        target_path: Path | None = None,
        split_seed: int = 0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self.path, self.target_path = Path(path), Path(target_path) if target_path else None
        self.split_seed = split_seed
        self.fractions = (val_fraction, test_fraction)

    @property
    def where(self) -> str:
        return str(self.path)

    def pairs(self) -> dict[str, list[Pair]]:
        sources = self._lines(self.path)
        if self.target_path is None:
            pairs = paired(_columns(sources, self.path), str(self.path), str(self.path))
        else:
            targets = self._lines(self.target_path)
            pairs = paired(
                matched(sources, targets, str(self.path), str(self.target_path)), str(self.path), str(self.target_path)
            )
        if self.whole:
            return {"test": pairs}
        parts = split_indices(len(pairs), *self.fractions, self.split_seed, fold=self.fold)
        return {name: [pairs[i] for i in index] for name, index in parts.items()}

    def _lines(self, path: Path) -> list[str]:
        return lines_of(self._cased(read_text(path)), path)


def lines_of(text: str, path: Path | str) -> list[str]:
    """Return the lines of a text, without the empty ones at its end; see `split_lines`."""
    return [line.rstrip("\r") for line in split_lines(text.rstrip("\r\n"), path)]


def _columns(lines: Sequence[str], path: Path) -> list[Pair]:
    rows = []
    for number, line in enumerate(lines, 1):
        cells = line.split("\t")
        if line.strip() and len(cells) != 2:
            raise UserError(
                f"{path}, row {number}: {len(cells)} columns between tabs where there are 2, a text and its "
                "translation; a file of translations alone is datamodule.target_path"
            )
        rows.append((cells[0], cells[-1]))
    return rows


def matched(sources: Sequence[str], targets: Sequence[str], source_file: str, target_file: str) -> list[Pair]:
    """Return two files line by line.

    Raises:
        UserError: if one has more lines.
    """
    if len(sources) != len(targets):
        raise UserError(
            f"{source_file} has {len(sources):,} lines and {target_file} has {len(targets):,}: "
            "line by line, each is the translation of the other"
        )
    return list(zip(sources, targets, strict=True))


def paired(rows: Sequence[Pair], source_file: str, target_file: str) -> list[Pair]:
    """Return the pairs without white space around the texts; rows that are empty on both sides are passed over.

    Raises:
        UserError: for a row with one side empty, or if there is no pair.
    """
    pairs = []
    for number, (source, target) in enumerate(rows, 1):
        pair = (source.strip(), target.strip())
        if all(pair):
            pairs.append(pair)
        elif any(pair):
            raise UserError(f"{target_file if pair[0] else source_file}, row {number}: one side of this pair is empty")
    if not pairs:
        raise UserError(f"{source_file}: there are no pairs in this file")
    return pairs
