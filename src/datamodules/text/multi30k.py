"""Multi30k, task 1: parallel captions of photographs in four languages (Elliott et al. 2016)."""

from collections.abc import Sequence
from typing import Any

from src.datamodules.io.downloads import PublicFile
from src.datamodules.splits.cross_validation import apply_fold
from src.datamodules.text.parallel_text import pair_texts, split_text_lines
from src.datamodules.text.translation import Pair, Row, Translating

_BASE = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
_SUMS = {
    "train.de": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    "train.en": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    "val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "test_2016_flickr.de": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
    "test_2016_flickr.en": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
    "test_2017_flickr.de": "c3078bc3b36808bf9d20eb2347ed6137016179ef59ec0d2b9b8ecc3fb2880081",
    "test_2017_flickr.en": "ce1450ddc5ab0834502579d77a170849952e15a2938b34cc503bdc25ebb4fb98",
}
"""SHA-256 of the contents."""
_PACKED = {
    "train.fr": "6cb767741dcad3931f966fefbc05203f",
    "train.cs": "d9a5fc268917725a2b0efce3a0cc8607",
    "val.fr": "93fc564584b7e5ba410c761ea5a1c682",
    "val.cs": "83cdc082f646b769095615384cf5c0ca",
    "test_2016_flickr.fr": "08dc7cd4a662f31718412de95ca9bfe3",
    "test_2016_flickr.cs": "3104872229daa1bef3b401d44dd2220b",
    "test_2017_flickr.fr": "cb09af7d2b501f9112f2d6a59fa1360d",
    "test_2017_mscoco.de": "e8cd6ec2bc8a11fc846fa48a46e3d0bb",
    "test_2017_mscoco.en": "a7b684e0edbef1d4a23660c8e8e743fd",
    "test_2017_mscoco.fr": "4995d10954a804d3cdfd907b9fd093e8",
    "test_2018_flickr.en": "a152878809942757a55ce087073486b8",
}
"""MD5 of compressed files whose contents have no known checksum: a decompressed or recompressed file is verified by its
number of lines."""
LINES = {
    "train": 29_000,
    "val": 1_014,
    "2016_flickr": 1_000,
    "2017_flickr": 1_000,
    "2017_mscoco": 461,
    "2018_flickr": 1_071,
}


def file_of(part: str, language: str) -> PublicFile:
    """Return the file of a part (``train``, ``val``, or a test set such as ``2016_flickr``) in a language."""
    name = f"{part}.{language}" if part in ("train", "val") else f"test_{part}.{language}"
    return PublicFile(
        f"{_BASE}/{name}.gz",
        f"multi30k/{name}.gz",
        _SUMS.get(name),
        _PACKED.get(name),
        LINES[part],
        also=(f"multi30k/data/task1/raw/{name}.gz", f"dataset/data/task1/raw/{name}.gz"),
    )


class Multi30k(Translating):
    """29,000 pairs of sentences for training, 1,014 for validation, and one of four test sets, as published.

    No pair is removed from validation and test, so that BLEU is comparable with published results.

    Args:
        languages: source and target language: two of ``en``, ``de``, ``fr`` and ``cs``.
        test: ``2016_flickr``, ``2017_flickr``, ``2017_mscoco`` or ``2018_flickr``.
        verify: reject files that differ from the published ones.
        rest: arguments of `Translating`.
    """

    filtered_splits = ("train",)

    def __init__(
        self,
        languages: Sequence[str] = ("en", "de"),
        test: str = "2016_flickr",
        verify: bool = True,
        **rest: Any,
    ) -> None:
        super().__init__(**rest)
        self.languages = tuple(languages)
        self.test = test
        self.verify = verify

    @property
    def where(self) -> str:
        return f"multi30k, {' to '.join(self.languages)}"

    def pairs(self) -> dict[str, list[Pair]]:
        parts = {name: self._part(part) for name, part in (("train", "train"), ("val", "val"), ("test", self.test))}
        return apply_fold(parts, self.fold)

    def max_lengths(self, rows: Sequence[Row]) -> tuple[int, int]:
        """Return the lengths of `max_length`, because another test set may have longer sentences."""
        return self.max_length + 1, self.max_length + 2

    def _part(self, part: str) -> list[Pair]:
        lines, paths = [], []
        for language in self.languages:
            file = file_of(part, language)
            text = file.read_text(self.data_dir, self.verify, self.write_dir)
            lines.append(split_text_lines(self._normalize_case(text), file.path))
            paths.append(str(file.find(self.data_dir, self.write_dir)))
        return pair_texts(lines[0], lines[1], *paths)
