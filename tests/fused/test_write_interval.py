"""How much of a group's time goes into writing, and how much a kill may cost."""

import pytest

from src.fused.write_interval import Pauses


@pytest.mark.parametrize(
    ("pause", "members", "takes", "next_after"),
    [
        (1.0, 64, 0.001, 1.0),  # as in a run of its own
        (30.0, 64, 0.001, 30.0),
        (1.0, 64, 0.5, 10.0),  # writing takes a twentieth of the time
        (1.0, 4, 0.5, 4.0),  # and a kill costs no more than `pause` of each member
        (0.0, 64, 0.5, 0.0),
    ],
)
def test_the_pause_is_that_of_the_config_and_grows_with_what_writing_takes(
    pause: float, members: int, takes: float, next_after: float
) -> None:
    now = 100.0
    pauses = Pauses(pause, members, lambda: now)
    now += pause * members
    assert not pauses.too_soon()
    with pauses.writing():
        now += takes
    if next_after:
        now += next_after - 1e-6
        assert pauses.too_soon()
        now += 2e-6
    assert not pauses.too_soon()


@pytest.mark.parametrize(
    ("pause", "members", "first_after"),
    [(1.0, 2, 1.0), (1.0, 32, 3.2), (30.0, 32, 30.0)],
)
def test_before_anything_is_written_it_is_taken_to_need_five_milliseconds_a_member(
    pause: float, members: int, first_after: float
) -> None:
    now = 100.0
    pauses = Pauses(pause, members, lambda: now)
    now += first_after - 1e-6
    assert pauses.too_soon()
    now += 2e-6
    assert not pauses.too_soon()
