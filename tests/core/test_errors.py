import time

from src.core.errors import MAX_NAME_LENGTH, nearest


def test_a_long_word_is_not_compared_with_others():
    """The words of data files may have any length, and comparing takes the square of it."""
    words = ["".join(chr(0x4E00 + (number * step) % 397) for number in range(10**5)) for step in (1, 5)]
    began = time.monotonic()
    said = nearest(words[0], [words[1], "a"])
    assert said == f"Possible: a, {words[1][:MAX_NAME_LENGTH]}…."
    assert time.monotonic() - began < 20  # against a hang
