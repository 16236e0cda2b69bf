"""What a person sees of a sweep, off a terminal and on it."""

import time

import pytest
from rich.console import Console

from src.sweeping.ledger import Job, State
from src.sweeping.messages import Ended, Progress
from src.sweeping.progress_table import Display

JOBS = [Job(n, (f"lr=0.{n}",), (f"lr=0.{n}",), str(n), f"lr-0.{n}_{n}", {}) for n in (1, 2, 3, 4)]
ERROR = """Traceback (most recent call last):
  File "/x/site-packages/lightning/loops.py", line 3, in run
    foreign_code()
  File "/repo/src/models/base.py", line 9, in step
    own_code()
ValueError: too large
"""


def test_a_line_a_job_and_a_short_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(4, before=1) as display:
        display.started(JOBS[0])
        display.progress(JOBS[0], Progress(1, 0, 2, {"val/loss": 0.9}))
        display.ended(JOBS[0], State("finished", "val/loss", "min", 0.5, 2.0), Ended(1, "finished"))
        display.started(JOBS[1])
        display.ended(JOBS[1], State("failed", error="ValueError: too large"), Ended(2, "failed", ERROR))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[2/4]  finished  lr=0.1  val/loss 0.5  (2.0 s)")
    assert lines[1].startswith("[3/4]  failed") and "lr=0.2" in lines[1]
    assert "own_code()" in "\n".join(lines) and "ValueError: too large" in lines[-1]
    assert "foreign_code" not in "\n".join(lines)


def test_the_time_left_follows_from_the_share_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = Display(4)
    assert display.seconds_left() is None
    display.started(JOBS[0])
    now[0] += 10
    assert display.seconds_left() is None, "nothing is known before an epoch has ended"
    display.progress(JOBS[0], Progress(1, 4, 10, {}))
    assert display.seconds_left() == pytest.approx(10 / 0.5 * 3.5)


def test_what_an_earlier_command_did_took_none_of_this_one_s_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = Display(2)
    display.started(JOBS[0], before=0.5)
    now[0] += 10
    assert display.seconds_left() is None
    display.progress(JOBS[0], Progress(1, 5, 10, {}))
    assert display.seconds_left() == pytest.approx(10 / 0.1 * 1.4)
    display.ended(JOBS[0], State("finished"), Ended(1, "finished"))
    assert display.seconds_left() == pytest.approx(10 / 0.5 * 1.0)


def test_the_live_table(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(4)
    display.started(JOBS[0])
    display.ended(JOBS[0], State("finished", "val/loss", "min", 0.5, 2.0), Ended(1, "finished"))
    display.started(JOBS[1])
    display.progress(JOBS[1], Progress(2, 6, 10, {"val/loss": 0.25, "train/loss": 0.1}))
    display.started(JOBS[2])
    console = Console(width=100, record=True)
    console.print(display._table())
    text = console.export_text()
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("lr=")}
    assert rows["lr=0.1"][1:3] == ["finished", "0.5"]
    assert rows["lr=0.2"][1:4] == ["running", "7/10", "0.25"]
    assert rows["lr=0.3"][1] == "running" and "1 of 4 jobs done" in text and "left" in text
