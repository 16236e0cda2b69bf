"""What the process of a group does with jobs that cannot be trained as one."""

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
from src.sweeping.messages import Declined, Ended
from tests.fused.conftest import train_together

Words = Callable[..., list[str]]
Jobs = tuple[list[dict[str, Any]], list[Path]]


class Own(MLP):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        raise AssertionError("called")


@pytest.fixture
def jobs(fast: Words, tmp_path: Path) -> Callable[..., Jobs]:
    """Return a function that makes two short jobs of some words, and their folders."""

    def make(*words: str) -> Jobs:
        shared = fast("trainer.limit_train_batches=2", "trainer.max_epochs=1", *words)
        configs = [check(compose([*shared, f"optimizer.lr={lr}"])).plain() for lr in (1e-3, 2e-3, 3e-3)]
        return configs, [tmp_path / str(number) for number in range(3)]

    return make


def test_a_step_of_its_own_is_not_left_out(jobs: Callable[..., Jobs]) -> None:
    configs, folders = jobs("model=mlp", "model._target_=tests.fused.test_worker.Own")
    events = train_together(configs, folders)
    assert {event.number for event in events if isinstance(event, Declined)} == {1, 2, 3}
    assert all("Own.training_step" in event.reason for event in events if isinstance(event, Declined))
    assert not any(isinstance(event, Ended) for event in events) and not any(folder.exists() for folder in folders)


def a_file_in_its_place(folder: Path, config: dict[str, Any]) -> None:
    folder.write_text("")


def a_torn_checkpoint(folder: Path, config: dict[str, Any]) -> None:
    begun = RunFolder.create(folder, config, ("test",))
    begun.checkpoints.mkdir(exist_ok=True)
    (begun.checkpoints / "last.ckpt").write_bytes(b"PK torn")
    begun.interrupt()


@pytest.mark.parametrize("harm", [a_file_in_its_place, a_torn_checkpoint])
def test_what_is_wrong_with_one_leaves_the_others_alone(
    jobs: Callable[..., Jobs], harm: Callable[[Path, dict[str, Any]], None]
) -> None:
    configs, folders = jobs("model=mlp", "datamodule=breast_cancer")
    harm(folders[0], configs[0])
    events = train_together(configs, folders)
    (declined,) = (event for event in events if isinstance(event, Declined))
    assert declined.number == 1 and str(folders[0]) in declined.reason
    ended = {event.number: event.status for event in events if isinstance(event, Ended)}
    assert ended == {2: "finished", 3: "finished"}
    assert "WARNING" not in (folders[1] / "train.log").read_text()
