"""Each member of a group has its own run in Weights & Biases, with its own metrics."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.config.compose import compose
from src.config.validate import check
from src.run_store.run_folder import RunFolder
from src.sweeping.messages import Ended
from tests.fused.conftest import train_together
from tests.loggers.wandb.conftest import fresh_wandb, wandb_server  # noqa: F401
from tests.loggers.wandb.recording import use

pytest.importorskip("wandb")
pytestmark = [pytest.mark.usefixtures("fresh_wandb"), pytest.mark.slow]


def test_each_member_has_its_own_run(
    fast: Callable[..., list[str]],
    tmp_path: Path,
    wandb_server: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(wandb_server, monkeypatch)
    shared = fast("trainer.limit_train_batches=2", "trainer.max_epochs=2", "model=mlp", "datamodule=breast_cancer")
    shared = [override for override in shared if not override.startswith("logger")] + ["logger=wandb"]
    configs = [check(compose([*shared, f"optimizer.lr={lr}"])).plain() for lr in (1e-3, 2e-3)]
    folders = [tmp_path / "members" / str(number) for number in range(2)]
    events = train_together(configs, folders)
    assert [event.status for event in events if isinstance(event, Ended)] == ["finished"] * 2, events
    assert len(wandb_server.runs) == 2
    for folder in map(RunFolder.open, folders):
        assert folder.record["wandb"]["mode"] == "online" and folder.record["wandb"]["complete"]
        run = wandb_server.runs[folder.record["wandb"]["id"]]
        logged = run.values("val/loss")
        assert logged == [row["val/loss"] for row in folder.metrics() if "val/loss" in row] and len(logged) == 2
        assert run.summary["status"] == "finished"
