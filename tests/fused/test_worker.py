"""Jobs that the process of a group cannot train as one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from src.config.compose import compose
from src.config.validate import check
from src.core.batches import Batch
from src.models.mlp import MLP
from src.run_store.run_folder import RunFolder
from src.sweeping.messages import Ended, Rejected
from tests.fused.conftest import train_together

Overrides = Callable[..., list[str]]
Jobs = tuple[list[dict[str, Any]], list[Path]]


class CustomStep(MLP):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        raise AssertionError("called")


@pytest.fixture
def jobs(fast: Overrides, tmp_path: Path) -> Callable[..., Jobs]:
    """Return a function that makes three short jobs from overrides, and their folders."""

    def make(*overrides: str) -> Jobs:
        shared = fast("trainer.limit_train_batches=2", "trainer.max_epochs=1", *overrides)
        configs = [check(compose([*shared, f"optimizer.lr={lr}"])).plain() for lr in (1e-3, 2e-3, 3e-3)]
        return configs, [tmp_path / str(number) for number in range(3)]

    return make


def test_job_with_a_custom_step_is_rejected(jobs: Callable[..., Jobs]) -> None:
    configs, folders = jobs("model=mlp", "model._target_=tests.fused.test_worker.CustomStep")
    events = train_together(configs, folders)
    assert {event.number for event in events if isinstance(event, Rejected)} == {1, 2, 3}
    assert all("CustomStep.training_step" in event.reason for event in events if isinstance(event, Rejected))
    assert not any(isinstance(event, Ended) for event in events) and not any(folder.exists() for folder in folders)


def replace_folder_by_file(folder: Path, config: dict[str, Any]) -> None:
    folder.write_text("")


def truncate_checkpoint(folder: Path, config: dict[str, Any]) -> None:
    run_folder = RunFolder.create(folder, config, ("test",))
    run_folder.checkpoints.mkdir(exist_ok=True)
    (run_folder.checkpoints / "last.ckpt").write_bytes(b"PK torn")
    run_folder.interrupt()


@pytest.mark.parametrize("damage", [replace_folder_by_file, truncate_checkpoint])
def test_damaged_job_does_not_affect_the_others(
    jobs: Callable[..., Jobs], damage: Callable[[Path, dict[str, Any]], None]
) -> None:
    configs, folders = jobs("model=mlp", "datamodule=breast_cancer")
    damage(folders[0], configs[0])
    events = train_together(configs, folders)
    (rejection,) = (event for event in events if isinstance(event, Rejected))
    assert rejection.number == 1 and str(folders[0]) in rejection.reason
    ended = {event.number: event.status for event in events if isinstance(event, Ended)}
    assert ended == {2: "finished", 3: "finished"}
    assert "WARNING" not in (folders[1] / "train.log").read_text()
