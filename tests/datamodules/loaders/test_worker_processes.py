"""Batches read by workers: the same whoever reads them, and exact to resume."""

import os
import random
import signal

import numpy as np
import pytest
import torch

from src.core.batches import LabelledBatch
from src.core.errors import UserError
from src.datamodules.loaders.worker_processes import StreamLoader, default_workers
from src.diagnostics.resume_check import check_resume


def read(index: torch.Tensor, augment: bool) -> torch.Tensor:
    """Examples are their numbers; what an augmentation draws of each generator comes behind."""
    drawn = [torch.rand(()), np.random.rand(), random.random()] if augment else [0, 0, 0]
    return torch.stack([torch.tensor([float(i), *map(float, drawn)]) for i in index])


def loader(workers: int, augment: bool = True, **how) -> StreamLoader:
    split = LabelledBatch(torch.arange(23), 10 * torch.arange(23))
    return StreamLoader(split, 4, read=read, augment=augment, workers=workers, **{"shuffle": True, "seed": 3, **how})


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_whoever_reads_them(workers):
    one, other = loader(0), loader(workers)
    for epoch in (0, 1):
        one.set_epoch(epoch), other.set_epoch(epoch)
        torch.manual_seed(epoch), np.random.seed(epoch), random.seed(epoch)
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y)
            assert torch.equal(10 * a.x[:, 0].long(), a.y)


def killed(index: torch.Tensor, augment: bool) -> torch.Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_killed_worker_is_reported():
    with pytest.raises(UserError, match=r"a data-loading worker was killed.*datamodule\.workers=0"):
        list(StreamLoader(LabelledBatch(torch.arange(8), torch.arange(8)), 4, read=killed, augment=False, workers=1))


def test_random_numbers_differ_by_batch_epoch_and_process():
    seen = set()
    for epoch in (0, 1):
        for rank in (0, 1):
            it = loader(0, rank=rank, world_size=2)
            it.set_epoch(epoch)
            seen |= {float(batch.x[0, k]) for batch in it for k in (1, 2, 3)}
    assert len(seen) == 2 * 2 * 3 * 3


@pytest.mark.parametrize("workers", [0, 2])
def test_global_random_state_does_not_change(workers):
    def draws() -> list[float]:
        return [float(torch.rand(())), float(np.random.rand()), random.random()]

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = draws()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    list(loader(workers))
    assert draws() == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_where_it_was(workers):
    whole = [batch.x for batch in loader(workers)]
    first = loader(workers)
    iterator = iter(first)
    next(iterator), next(iterator)
    second = loader(workers)
    second.load_state_dict(first.state_dict())
    rest = [batch.x for batch in second]
    assert len(rest) == len(whole) - 2 and all(torch.equal(a, b) for a, b in zip(rest, whole[2:], strict=True))


def test_workers_by_default():
    assert 1 <= default_workers() <= 8


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["regularization=audio_augmentation"]], ids=["image_folder", "audio_folder"])
def test_a_run_is_resumed_exactly(fast, more):
    kind = "audio_folder" if more else "image_folder"
    overrides = fast("model=cnn", f"datamodule={kind}", *more, "datamodule.memory_share=0", "datamodule.workers=2")
    whole = ["trainer.limit_train_batches=null", "trainer.max_epochs=2", "regularization.dropout=0.2"]
    findings = check_resume([*overrides, *whole, "datamodule.batch_size=4"], report=lambda line: None, seed=0)
    assert findings and all(finding.equal for finding in findings), [f for f in findings if not f.equal]
