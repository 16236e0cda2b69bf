"""What the process of a group does with jobs that cannot be trained as one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from src.batches import Batch
from src.config.check import check
from src.config.compose import compose
from src.models.mlp import MLP
from src.sweeping.worker import Declined, Ended
from tests.sweeping.fused.conftest import train_together

Words = Callable[..., list[str]]


class Own(MLP):
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        raise AssertionError("called")


@pytest.fixture
def jobs(fast: Words, tmp_path: Path) -> Callable[..., tuple[list[dict[str, object]], list[Path]]]:
    """Return a function that makes two short jobs of some words, and their folders."""

    def make(*words: str) -> tuple[list[dict[str, object]], list[Path]]:
        shared = fast("trainer.limit_train_batches=2", "trainer.max_epochs=1", *words)
        configs = [check(compose([*shared, f"optimizer.lr={lr}"])).plain() for lr in (1e-3, 2e-3, 3e-3)]
        return configs, [tmp_path / str(number) for number in range(3)]

    return make


def test_a_step_of_its_own_is_not_left_out(jobs: Callable[..., tuple[list[dict[str, object]], list[Path]]]) -> None:
    configs, folders = jobs("model=mlp", "model._target_=tests.sweeping.fused.test_worker.Own")
    events = train_together(configs, folders)
    assert {event.number for event in events if isinstance(event, Declined)} == {1, 2, 3}
    assert all("Own.training_step" in event.reason for event in events if isinstance(event, Declined))
    assert not any(isinstance(event, Ended) for event in events) and not any(folder.exists() for folder in folders)
