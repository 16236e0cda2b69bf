"""Labelled texts for the page of back-translation, made of Multi30k's captions: what is the something in them?

python -m docs.something [data]

A caption that names one of eight things, with its article, says "something" instead, and the thing is its label. Training takes
the captions that no translator of Multi30k is trained on, those of its validation and test sets; validation and test take those
of its training set, which are many.
"""

import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from src.datamodules.text.multi30k import file_of
from src.datamodules.text.parallel_text import split_text_lines

THINGS = "street|water|beach|dog|ball|snow|bench|camera"
NAMED = re.compile(rf"\b(?:an?|the) ({THINGS})\b", re.I)
HINT = re.compile(THINGS, re.I)
VALIDATION = 1000


def asked(captions: Sequence[str]) -> list[tuple[str, str]]:
    """Return the captions that name one of the things once and no other, with that taken out, each with what it named."""
    found = [(caption, NAMED.search(caption)) for caption in captions if len(HINT.findall(caption)) == 1]
    return [(_without(caption, named), named[1].lower()) for caption, named in found if named]


def _without(caption: str, named: re.Match[str]) -> str:
    something = "something" if named.start() else "Something"
    return caption[: named.start()] + something + caption[named.end() :]


def main(data: str = "data") -> None:
    """Write the files something.csv, something_val.csv and something_test.csv, with the columns text and label.

    Args:
        data: where Multi30k lies or is downloaded to, and the files are written to.
    """
    folder = Path(data)
    captions = {
        part: split_text_lines(file_of(part, "en").read(folder).decode("utf-8"))
        for part in ("train", "val", "2016_flickr", "2017_flickr")
    }
    known = asked(captions.pop("train"))
    unknown = asked([caption for part in captions.values() for caption in part])
    for name, rows in (("", unknown), ("_val", known[:VALIDATION]), ("_test", known[VALIDATION:])):
        with (folder / f"something{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])


if __name__ == "__main__":
    main(*sys.argv[1:])
