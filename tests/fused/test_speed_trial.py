"""What is chosen from what was timed, and how it is said."""

import pytest

from src.fused.speed_trial import CLEAR_STEPS, MIN_STEPS, SpeedTrial, time_in_turns


@pytest.mark.parametrize(
    ("alone", "together", "size"),
    [
        (0.001, {32: 0.004}, 32),
        (0.001, {32: 0.031, 8: 0.004}, 8),
        (0.001, {32: 0.040, 8: 0.009}, 1),
        (0.001, {32: 0.0318, 8: 0.0079}, 1),  # hardly faster is not worth it
        (0.001, {}, 1),
    ],
)
def test_the_fastest_way_is_taken(separate: float, fused: dict[int, float], size: int) -> None:
    assert SpeedTrial(separate, fused).size == size


def test_the_numbers_are_told() -> None:
    said = str(SpeedTrial(0.001, {32: 0.031, 8: 0.004}))
    assert "a step of 32 takes 31.00 ms as one and 32.00 ms one by one" in said
    assert said.endswith("trained as one, 8 at a time")
    assert str(SpeedTrial(0.001, {8: 0.02})).endswith("one by one")
    assert "no room" in str(SpeedTrial(0.001, {}))


def test_a_busy_machine_is_not_taken_for_a_slow_way() -> None:
    """One of the ways is held up in all but its last step, and what is timed once more is the first step of none."""
    now, calls = 0.0, {"quick": 0, "held up": 0}

    def step(name: str, seconds: float) -> None:
        nonlocal now
        calls[name] += 1
        now += 0.7 if name == "held up" and calls[name] <= MIN_STEPS else seconds

    ways = [lambda: step("quick", 0.005), lambda: step("held up", 0.003)]
    assert time_in_turns(ways, lambda: now) == pytest.approx([0.005, 0.003])
    assert calls["quick"] == calls["held up"] == MIN_STEPS + 1


def test_where_it_is_clear_a_few_steps_are_enough() -> None:
    now, calls = 0.0, [0, 0]

    def step(number: int, seconds: float) -> None:
        nonlocal now
        calls[number] += 1
        now += seconds

    ways = [lambda: step(0, 0.001), lambda: step(1, 0.004)]
    assert time_in_turns(ways, lambda: now, lambda one, eight: 8 * one > 3 * eight) == pytest.approx([0.001, 0.004])
    assert calls[0] == calls[1] > MIN_STEPS
    calls[:] = [0, 0]
    time_in_turns(ways, lambda: now, lambda one, all_32: 32 * one > 3 * all_32)
    assert calls == [CLEAR_STEPS + 1] * 2
