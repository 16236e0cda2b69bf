import logging

import lightning as L
import pytest
import torch
from torch import nn

from src.core.batches import LabelledBatch
from src.core.errors import UserError
from src.datamodules.loaders.in_memory import BatchLoader


def numbered(size: int) -> LabelledBatch:
    """Examples whose x is their number and whose y is ten times that."""
    x = torch.arange(size)
    return LabelledBatch(x.float().unsqueeze(1), 10 * x)


def order(loader: BatchLoader) -> list[int]:
    return [int(i) for batch in loader for i in batch.x.flatten()]


def test_order_follows_from_seed_and_epoch_alone():
    first, second = (BatchLoader(numbered(50), 8, shuffle=True, seed=3) for _ in range(2))
    first.set_epoch(4)
    list(first), list(first)  # earlier epochs leave no trace
    second.set_epoch(4)
    torch.manual_seed(99)  # neither does the global generator
    assert order(first) == order(second)
    second.set_epoch(5)
    assert order(first) != order(second)
    assert order(BatchLoader(numbered(50), 8, shuffle=True, seed=4)) != order(
        BatchLoader(numbered(50), 8, shuffle=True)
    )


def test_an_epoch_contains_every_example_once_with_its_target():
    loader = BatchLoader(numbered(50), 8, shuffle=True)
    assert sorted(order(loader)) == list(range(50))
    assert order(loader) != list(range(50))
    assert all(torch.equal(10 * batch.x.flatten().long(), batch.y) for batch in loader)
    assert [len(batch.x) for batch in loader] == [8] * 6 + [2]
    assert len(loader) == 7


def test_unshuffled_order_is_that_of_the_split():
    assert order(BatchLoader(numbered(11), 4)) == list(range(11))


@pytest.mark.parametrize("size", [4, 7, 12, 33])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 64])
def test_ranks_share_evaluation_without_overlap(size, world_size, batch_size):
    loaders = [BatchLoader(numbered(size), batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(i for loader in loaders for i in order(loader)) == list(range(size))
    for loader in loaders:
        sizes = [len(batch.x) for batch in loader]
        assert len(sizes) == len(loader) == len(loaders[0])
        assert min(sizes) >= 1 and max(sizes) <= batch_size + 1


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("size", [8, 9, 10, 17, 18, 19])
def test_no_training_batch_holds_one_example(size, world_size, shuffle):
    loaders = [
        BatchLoader(numbered(size), 4, shuffle, training=True, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert {i for loader in loaders for i in order(loader)} == set(range(size))
    for loader in loaders:
        sizes = [len(batch.x) for batch in loader]
        assert len(sizes) == len(loader) == len(loaders[0])
        assert min(sizes) > 1
    assert [len(batch.x) for batch in BatchLoader(numbered(9), 4)] == [4, 4, 1]


@pytest.mark.parametrize("size", [3, 12, 33])
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_ranks_share_training_in_batches_of_one_size(size, world_size, batch_size):
    loaders = [
        BatchLoader(numbered(size), batch_size, shuffle=True, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    sizes = [[len(batch.x) for batch in loader] for loader in loaders]
    assert sizes == sizes[:1] * world_size and len(sizes[0]) == len(loaders[0])
    seen = [i for loader in loaders for i in order(loader)]
    assert set(seen) == set(range(size))
    assert len(seen) - size < world_size  # repeated only to even the shares out


def test_together_ranks_follow_the_order_of_a_single_process():
    alone = order(BatchLoader(numbered(12), 3, shuffle=True, seed=5))
    ranks = [order(BatchLoader(numbered(12), 3, shuffle=True, seed=5, rank=r, world_size=3)) for r in range(3)]
    assert [i for step in zip(*ranks, strict=True) for i in step] == alone


def test_a_split_smaller_than_the_number_of_processes_is_refused():
    with pytest.raises(UserError, match="2 examples cannot be shared by 4 processes"):
        BatchLoader(numbered(2), 1, world_size=4)


def test_collate_finishes_every_batch():
    loader = BatchLoader(numbered(5), 2, collate=lambda batch: batch._replace(y=batch.y + 1))
    assert torch.cat([batch.y for batch in loader]).tolist() == [1, 11, 21, 31, 41]


class Recorder(L.LightningModule):
    """Writes down which examples each epoch showed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: dict[int, list[int]] = {}

    def training_step(self, batch, batch_idx):
        self.seen.setdefault(self.current_epoch, []).extend(int(i) for i in batch.x.flatten())
        return self.layer(batch.x).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", [{}, {"overfit_batches": 2}])
def test_lightning_sets_the_epoch_of_the_loader(settings, caplog):
    model, loader = Recorder(), BatchLoader(numbered(10), 4, shuffle=True, seed=1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(model, loader)
    for epoch in range(3):
        expected = BatchLoader(numbered(10), 4, shuffle=True, seed=1)
        expected.set_epoch(epoch)
        steps = settings.get("overfit_batches", 3)
        assert model.seen[epoch] == order(expected)[: 4 * steps]
    assert model.seen[0] != model.seen[1] != model.seen[2]
