"""Create a text classification data set from tiny shakespeare, for the page of synonyms: the speeches of eight characters.

python -m docs.speakers data/tiny_shakespeare/input.txt data/speakers.csv
"""

import csv
import sys
from collections import Counter
from pathlib import Path

MIN_LENGTH = 8
"""Minimum number of words of a speech; a shorter one contains too little information about its speaker."""


def speeches(play: str, characters: int = 8) -> list[tuple[str, str]]:
    """Return the speeches of the most frequent characters, each with the name of its character."""
    parts = [part.split(":\n", 1) for part in play.split("\n\n") if ":\n" in part]
    frequent = {name for name, _ in Counter(name for name, _ in parts).most_common(characters)}
    return [
        (" ".join(text.split()), name) for name, text in parts if name in frequent and len(text.split()) >= MIN_LENGTH
    ]


def main(source: str, target: str) -> None:
    """Write a CSV with the columns text and label."""
    with Path(target).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *speeches(Path(source).read_text(encoding="utf-8"))])


if __name__ == "__main__":
    main(*sys.argv[1:])
