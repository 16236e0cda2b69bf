"""Check that names follow the vocabulary of the field: python tools/check_vocabulary.py [FILE ...]

Reads the identifiers of Python files and the keys of YAML files. A word of the table below is an error, unless
tools/vocabulary_allowed.tsv allows it in a file, with a reason (an ordinary use, such as a word of a text).
"""

import fnmatch
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
ALLOWED = Path(__file__).with_name("vocabulary_allowed.tsv")

USE_INSTEAD = {
    "answer": "prediction, output, response",
    "answers": "predictions, outputs",
    "apart": "separate, independent",
    "asleep": "deferred",
    "awake": "imported",
    "declined": "rejected",
    "fulfil": "match",
    "kept": "the name of what is kept",
    "lifeline": "parent-death signal",
    "mailbox": "channel",
    "meant": "resolved",
    "mend": "fix",
    "pause": "min_interval",
    "pauses": "write interval",
    "picture": "plot, figure, image",
    "pictures": "plots, figures, images",
    "said": "message, text",
    "say": "log, print",
    "says": "states",
    "settle": "flush_writes",
    "sibling": "sweep run",
    "siblings": "sweep runs",
    "tell": "report",
    "telling": "informative",
    "told": "reported",
    "truth": "target",
    "truths": "targets",
    "unasked": "IGNORE_INDEX",
    "unbias": "bias correction",
    "word": "override, argument, token",
    "words": "overrides, argv, tokens",
}
"""Words of the old vocabulary, and what the field calls them."""


def allowed_words() -> list[tuple[str, str]]:
    """Return pairs of a path pattern and a word that is allowed in such files."""
    lines = [line.split("\t") for line in ALLOWED.read_text().splitlines() if line and not line.startswith("#")]
    return [(pattern, word) for pattern, word, _reason in lines]


def words_of(name: str) -> list[str]:
    """Return the words of an identifier in snake_case or CamelCase, in lower case."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def names_in(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the identifiers of a Python file, or the keys of a YAML file, with their lines."""
    text = path.read_text()
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NAME:
                yield token.start[0], token.string
    else:
        for number, line in enumerate(text.splitlines(), 1):
            if match := re.match(r"\s*([\w.]+):", line):
                yield number, match[1]


def main(files: Sequence[str]) -> int:
    """Print every name that uses the old vocabulary; return the exit code."""
    if not files:
        listed = subprocess.run(
            ["git", "ls-files", "*.py", "conf/*.yaml", "sweeps/*.yaml"], cwd=ROOT, capture_output=True, text=True
        )
        files = listed.stdout.splitlines()
    allowed, count = allowed_words(), 0
    for file in files:
        if file.endswith("check_vocabulary.py") or not (ROOT / file).is_file():
            continue
        exceptions = {word for pattern, word in allowed if fnmatch.fnmatch(file, pattern)}
        seen: set[str] = set()
        for number, name in names_in(ROOT / file):
            wrong = [word for word in words_of(name) if word in USE_INSTEAD and word not in exceptions]
            if wrong and name not in seen:
                seen.add(name)
                count += 1
                print(f"{file}:{number}: {name}: instead of '{wrong[0]}': {USE_INSTEAD[wrong[0]]}")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
