"""BatchLoader: batches indexed out of tensors, in an order that depends on seed and epoch only."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import torch

from src.core.batches import Batch
from src.core.errors import UserError


@dataclass(eq=False)
class BatchLoader:
    """Iterate over a split in memory; no Python code runs per example.

    Args:
        split: all examples as one batch, every tensor [N, …].
        batch_size: examples per batch; the last one may be smaller.
        shuffle: draw a new order in every epoch.
        seed: determines the order together with the epoch, so that a resumed run sees the same batches.
        training: merge a last batch of one example, on which batch normalization cannot train, into the one before.
        rank, world_size: index of this process and number of processes. Each takes every world_size-th example, and all
            take equally many steps, because they would deadlock otherwise: a shuffled order is padded with examples
            from its start; in an unshuffled one, where no example may count twice, a last batch may be larger by one.
        collate: post-processes a batch, for example removes unneeded padding.
        arrangement: [N] order of the examples if they are not shuffled; None: as stored.

    Raises:
        UserError: if an unshuffled split has fewer examples than there are processes.
    """

    split: Batch
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    training: bool = False
    rank: int = 0
    world_size: int = 1
    collate: Callable[[Batch], Batch] | None = None
    arrangement: torch.Tensor | None = None

    def __post_init__(self) -> None:
        size = len(self.split[0])
        if not self.shuffle and size < self.world_size:
            raise UserError(
                f"trainer.devices: a split of {size} examples cannot be shared by {self.world_size} processes"
            )
        self.batch_sampler = None
        self.epoch = 0
        self._yielded = 0
        self._resume_position: tuple[int, int] | None = None

    @property
    def sampler(self) -> "BatchLoader":
        """Return the object on which Lightning calls `set_epoch` at the start of every epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        share = self._share()
        if self.training and share > self.batch_size > 1 and share % self.batch_size == 1:
            return share // self.batch_size
        return ceil(share / self.batch_size)

    def state_dict(self) -> dict[str, int]:
        """Return the position of the loader: the epoch, and the number of batches that it has yielded in it."""
        return {"epoch": self.epoch, "given": self._yielded}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Skip the batches that were yielded before, if the next epoch is the recorded one."""
        epoch, yielded = state_dict["epoch"], state_dict["given"]
        if not all(type(count) is int and count >= 0 for count in (epoch, yielded)):
            raise ValueError("the position within an epoch is not a count")
        self._resume_position = epoch, yielded

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.counted(self.indices()):
            yield self.collate(batch) if self.collate else batch

    def counted(self, indices: Sequence[torch.Tensor]) -> Iterator[Batch]:
        """Yield the batch of each index [B], except those yielded before the run was resumed, and count them."""
        epoch, yielded = self._resume_position or (self.epoch, 0)
        start = yielded if epoch == self.epoch else 0
        self._resume_position = None
        self._yielded = start
        for batch in self.cut(indices, start):
            self._yielded += 1
            yield batch

    def cut(self, indices: Sequence[torch.Tensor], start: int) -> Iterator[Batch]:
        """Yield the examples of each index [B], from batch `start`."""
        for index in indices[start:]:
            yield type(self.split)(*(tensor[index] for tensor in self.split))

    def _share(self) -> int:
        """Return the number of examples per process; without shuffling, some processes take one more."""
        size = len(self.split[0])
        return ceil(size / self.world_size) if self.shuffle else size // self.world_size

    def indices(self) -> list[torch.Tensor]:
        """Return the indices [B] of the examples of each batch of this epoch."""
        batches = list(self._order().to(self.split[0].device).split(self.batch_size))
        if len(batches) > len(self):
            last = batches.pop()
            batches[-1] = torch.cat((batches[-1], last))
        return batches

    def _order(self) -> torch.Tensor:
        """Return the indices of the examples of this process in the order of this epoch."""
        size = len(self.split[0])
        if not self.shuffle:
            order = torch.arange(size) if self.arrangement is None else self.arrangement
            return order[self.rank :: self.world_size]
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(size, generator=generator)
        return order[torch.arange(self.rank, self._share() * self.world_size, self.world_size) % size]
