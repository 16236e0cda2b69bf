"""Choice between fused and separate training from timed steps, and its message."""

import pytest

from src.fused.speed_trial import CLEAR_STEPS, MIN_STEPS, SpeedTrial, time_in_turns


@pytest.mark.parametrize(
    ("separate", "fused", "size"),
    [
        (0.001, {32: 0.004}, 32),
        (0.001, {32: 0.031, 8: 0.004}, 8),
        (0.001, {32: 0.040, 8: 0.009}, 1),
        (0.001, {32: 0.0318, 8: 0.0079}, 1),  # a gain below the minimum
        (0.001, {}, 1),
    ],
)
def test_fastest_way_is_chosen(separate: float, fused: dict[int, float], size: int) -> None:
    assert SpeedTrial(separate, fused).size == size


def test_message_contains_the_times() -> None:
    message = str(SpeedTrial(0.001, {32: 0.031, 8: 0.004}))
    assert "a step of 32 jobs takes 31.00 ms fused and 32.00 ms separately" in message
    assert message.endswith(": fused, 8 at a time")
    assert str(SpeedTrial(0.001, {8: 0.02})).endswith(": not fused")
    assert "not enough device memory" in str(SpeedTrial(0.001, {}))


def test_disturbed_steps_do_not_count() -> None:
    """One step is slowed down in all calls but the last, and the first call of each step is not timed."""
    now, calls = 0.0, {"steady": 0, "disturbed": 0}

    def step(name: str, seconds: float) -> None:
        nonlocal now
        calls[name] += 1
        now += 0.7 if name == "disturbed" and calls[name] <= MIN_STEPS else seconds

    ways = [lambda: step("steady", 0.005), lambda: step("disturbed", 0.003)]
    assert time_in_turns(ways, lambda: now) == pytest.approx([0.005, 0.003])
    assert calls["steady"] == calls["disturbed"] == MIN_STEPS + 1


def test_clear_result_needs_few_steps() -> None:
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
