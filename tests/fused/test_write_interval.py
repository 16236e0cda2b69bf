"""Time that a group spends on writing, and how much training a killed process may lose."""

import pytest

from src.fused.write_interval import WriteInterval


@pytest.mark.parametrize(
    ("min_interval", "members", "write_seconds", "expected"),
    [
        (1.0, 64, 0.001, 1.0),  # as in a separate run
        (30.0, 64, 0.001, 30.0),
        (1.0, 64, 0.5, 10.0),  # writing takes a twentieth of the time
        (1.0, 4, 0.5, 4.0),  # and a kill loses at most `min_interval` of each member
        (0.0, 64, 0.5, 0.0),
    ],
)
def test_interval_is_configured_and_grows_with_the_duration_of_a_write(
    min_interval: float, members: int, write_seconds: float, expected: float
) -> None:
    now = 100.0
    interval = WriteInterval(min_interval, members, lambda: now)
    now += min_interval * members
    assert not interval.should_defer()
    with interval.measure_write():
        now += write_seconds
    if expected:
        now += expected - 1e-6
        assert interval.should_defer()
        now += 2e-6
    assert not interval.should_defer()


@pytest.mark.parametrize(
    ("min_interval", "members", "expected"),
    [(1.0, 2, 1.0), (1.0, 32, 3.2), (30.0, 32, 30.0)],
)
def test_first_interval_assumes_five_milliseconds_per_member(
    min_interval: float, members: int, expected: float
) -> None:
    now = 100.0
    interval = WriteInterval(min_interval, members, lambda: now)
    now += expected - 1e-6
    assert interval.should_defer()
    now += 2e-6
    assert not interval.should_defer()
