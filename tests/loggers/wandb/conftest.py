"""Fixtures for the tests of Weights & Biases: a local server, and a process without an earlier session."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wandb_server import WandbServer


@pytest.fixture
def wandb_server() -> Iterator[WandbServer]:
    server = WandbServer()
    yield server
    server.die()


@pytest.fixture
def fresh_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove keys, settings and sessions from outside, and close the session of the test after it."""
    import wandb

    from src.loggers.wandb import connection, start

    for name in list(os.environ):
        if name.startswith("WANDB_"):
            monkeypatch.delenv(name)
    wandb.teardown()  # an earlier test of this process may have left a session, with the settings of its environment
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    connection.failed_servers.clear()
    start._used_ids.clear()
    yield
    wandb.teardown()
    for name in ("WANDB_SERVICE", "WANDB_MODE"):
        os.environ.pop(name, None)
