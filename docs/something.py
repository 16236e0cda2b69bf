"""Create a text classification data set from the captions of Multi30k, for the page of back-translation.

python -m docs.something [data]

A caption that names one of eight objects, with an article, contains "something" instead, and the object is its label. The
training set consists of captions of Multi30k's validation and test sets, on which no translator of Multi30k is trained. The
validation and test sets consist of captions of its large training set.
"""

import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from src.datamodules.text.multi30k import file_of
from src.datamodules.text.parallel_text import split_text_lines

OBJECTS = "street|water|beach|dog|ball|snow|bench|camera"
OBJECT_WITH_ARTICLE = re.compile(rf"\b(?:an?|the) ({OBJECTS})\b", re.I)
OBJECT_NAME = re.compile(OBJECTS, re.I)
VALIDATION = 1000


def masked_captions(captions: Sequence[str]) -> list[tuple[str, str]]:
    """Return the captions that name exactly one of the objects, once, with the object masked, and the object of each."""
    matches = [
        (caption, OBJECT_WITH_ARTICLE.search(caption)) for caption in captions if len(OBJECT_NAME.findall(caption)) == 1
    ]
    return [(_mask(caption, match), match[1].lower()) for caption, match in matches if match]


def _mask(caption: str, match: re.Match[str]) -> str:
    something = "something" if match.start() else "Something"
    return caption[: match.start()] + something + caption[match.end() :]


def main(data: str = "data") -> None:
    """Write the files something.csv, something_val.csv and something_test.csv, with the columns text and label.

    Args:
        data: the folder of Multi30k, to which it is downloaded if needed, and to which the files are written.
    """
    folder = Path(data)
    captions = {
        part: split_text_lines(file_of(part, "en").read(folder).decode("utf-8"))
        for part in ("train", "val", "2016_flickr", "2017_flickr")
    }
    from_training = masked_captions(captions.pop("train"))
    from_evaluation = masked_captions([caption for part in captions.values() for caption in part])
    for name, rows in (
        ("", from_evaluation),
        ("_val", from_training[:VALIDATION]),
        ("_test", from_training[VALIDATION:]),
    ):
        with (folder / f"something{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *rows])


if __name__ == "__main__":
    main(*sys.argv[1:])
