"""A labelled text for the page of synonyms, made of tiny shakespeare: the speeches of its eight most frequent characters.

python -m docs.speakers data/tiny_shakespeare/input.txt data/speakers.csv
"""

import csv
import sys
from collections import Counter
from pathlib import Path

SHORTEST = 8
"""Words of a speech; a shorter one says little of who speaks."""


def speeches(play: str, characters: int = 8) -> list[tuple[str, str]]:
    """Return the speeches of the characters that speak most often, each with its character."""
    spoken = [part.split(":\n", 1) for part in play.split("\n\n") if ":\n" in part]
    often = {who for who, _ in Counter(who for who, _ in spoken).most_common(characters)}
    return [(" ".join(text.split()), who) for who, text in spoken if who in often and len(text.split()) >= SHORTEST]


def main(source: str, target: str) -> None:
    """Write a CSV with the columns text and label."""
    with Path(target).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *speeches(Path(source).read_text(encoding="utf-8"))])


if __name__ == "__main__":
    main(*sys.argv[1:])
