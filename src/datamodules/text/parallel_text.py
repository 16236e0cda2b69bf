"""Parallel texts of the user, for translation: two files line by line, or one file with two columns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.core.errors import UserError
from src.datamodules.io.delimited_text import read_text, split_lines
from src.datamodules.splits.holdout import split_indices
from src.datamodules.text.translation import Pair, Translating


class ParallelText(Translating):
    """Texts and their translations, tokenized as characters, words or byte pairs.

    Args:
        path: source texts, one per line; without `target_path`, each line has its translation after a tab.
        target_path: translations, one per line.
        split_seed: seed of the splits.
        val_fraction, test_fraction: shares of the splits.
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
            sources, targets = _split_at_tabs(sources, self.path)
        else:
            targets = self._lines(self.target_path)
        pairs = pair_texts(sources, targets, str(self.path), str(self.target_path or self.path))
        if self.whole:
            return {"test": pairs}
        parts = split_indices(len(pairs), *self.fractions, self.split_seed, fold=self.fold)
        return {name: [pairs[i] for i in index] for name, index in parts.items()}

    def _lines(self, path: Path) -> list[str]:
        return split_text_lines(self._normalize_case(read_text(path)), path)


def split_text_lines(text: str, path: Path | str) -> list[str]:
    """Return the lines of a text without trailing empty lines; see `split_lines`."""
    return [line.rstrip("\r") for line in split_lines(text.rstrip("\r\n"), path)]


def _split_at_tabs(lines: Sequence[str], path: Path) -> tuple[list[str], list[str]]:
    """Return the sources and the targets of lines that have both."""
    sources, targets = [], []
    for number, line in enumerate(lines, 1):
        cells = line.split("\t")
        if line.strip() and len(cells) != 2:
            raise UserError(
                f"{path}, row {number}: {len(cells)} tab-separated columns where 2 are expected, a text and its "
                "translation; set datamodule.target_path for a separate file of translations"
            )
        sources.append(cells[0])
        targets.append(cells[-1])
    return sources, targets


def pair_texts(sources: Sequence[str], targets: Sequence[str], source_file: str, target_file: str) -> list[Pair]:
    """Return pairs of corresponding lines, stripped, without pairs that are empty on both sides.

    Raises:
        UserError: if one file has more lines, if one side of a pair is empty, or if there is no pair.
    """
    if len(sources) != len(targets):
        raise UserError(
            f"{source_file} has {len(sources):,} lines and {target_file} has {len(targets):,}: "
            "each line must be the translation of the same line of the other file"
        )
    pairs = []
    for number, (source, target) in enumerate(zip(sources, targets, strict=True), 1):
        pair = (source.strip(), target.strip())
        if all(pair):
            pairs.append(pair)
        elif any(pair):
            raise UserError(f"{target_file if pair[0] else source_file}, row {number}: one side of this pair is empty")
    if not pairs:
        raise UserError(f"{source_file}: there are no pairs in this file")
    return pairs
