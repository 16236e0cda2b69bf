import time

from src.core.errors import MAX_NAME_LENGTH, nearest


def test_a_long_name_is_not_compared_with_others():
    """The names in data files may have any length, and comparing takes the square of it."""
    names = ["".join(chr(0x4E00 + (number * step) % 397) for number in range(10**5)) for step in (1, 5)]
    began = time.monotonic()
    message = nearest(names[0], [names[1], "a"])
    assert message == f"Possible: a, {names[1][:MAX_NAME_LENGTH]}…."
    assert time.monotonic() - began < 20  # against a hang
