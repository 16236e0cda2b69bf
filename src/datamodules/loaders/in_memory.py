"""BatchLoader: batches cut out of tensors by index, in an order that follows from seed and epoch alone."""

from collections.abc import Callable, Iterator, Sequence
from math import ceil

import torch

from src.core.batches import Batch
from src.core.errors import UserError


class BatchLoader:
    """Iterate over a split that is held in memory; no Python code runs per example.

    Args:
        split: all examples as one batch, every tensor [N, …].
        batch_size: examples a batch; the last one may be smaller.
        shuffle: draw a new order in every epoch.
        seed: the order follows from it and the epoch, so that a resumed run sees the same batches.
        training: no batch of one example, on which batch normalization cannot be trained: it joins the batch before.
        rank, world_size: this process and the number of them. Each takes every world_size-th example, and all take
            equally many steps, or they would wait for each other for ever: in a shuffled order, examples from its start
            fill up the shares; otherwise, where no example may count twice, a last batch may be larger by one.
        collate: finishes a batch, for example by cutting needless padding away.
        arrangement: [N] the order of the examples where they are not shuffled; None takes them as they are.

    Raises:
        UserError: if an unshuffled split has fewer examples than there are processes.
    """

    def __init__(
        self,
        split: Batch,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        training: bool = False,
        rank: int = 0,
        world_size: int = 1,
        collate: Callable[[Batch], Batch] | None = None,
        arrangement: torch.Tensor | None = None,
    ) -> None:
        size = len(split[0])
        if not shuffle and size < world_size:
            raise UserError(f"trainer.devices: a split of {size} examples cannot be shared by {world_size} processes")
        self.split = split
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.training = training
        self.rank = rank
        self.world_size = world_size
        self.collate = collate
        self.arrangement = arrangement
        self.epoch = 0
        self._given = 0
        self._given_before: tuple[int, int] | None = None

    batch_sampler = None

    @property
    def sampler(self) -> "BatchLoader":
        """Where Lightning looks for `set_epoch` at the start of every epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        batches = ceil(self._share() / self.batch_size)
        lonely = self.training and batches > 1 and self._share() % self.batch_size == 1 and self.batch_size > 1
        return batches - lonely

    def state_dict(self) -> dict[str, int]:
        """Return how far the loader is: the epoch, and the batches that it has given in it."""
        return {"epoch": self.epoch, "given": self._given}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Leave out the batches that were given before, if the next epoch is the same one."""
        epoch, given = state_dict["epoch"], state_dict["given"]
        if not all(type(count) is int and count >= 0 for count in (epoch, given)):
            raise ValueError("the position within an epoch is not a count")
        self._given_before = epoch, given

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.counted(self.indices()):
            yield self.collate(batch) if self.collate else batch

    def counted(self, indices: Sequence[torch.Tensor]) -> Iterator[Batch]:
        """Yield what each index cuts out that was not given before, and count it."""
        epoch, given = self._given_before or (self.epoch, 0)
        start = given if epoch == self.epoch else 0
        self._given_before = None
        self._given = start
        for batch in self.cut(indices, start):
            self._given += 1
            yield batch

    def cut(self, indices: Sequence[torch.Tensor], start: int) -> Iterator[Batch]:
        """Yield the examples of each index [B], from batch `start` on."""
        for index in indices[start:]:
            yield type(self.split)(*(tensor[index] for tensor in self.split))

    def _share(self) -> int:
        """Return how many examples a process takes: all of them as many when shuffled, else some one more."""
        size = len(self.split[0])
        return -(-size // self.world_size) if self.shuffle else size // self.world_size

    def indices(self) -> list[torch.Tensor]:
        """Return the examples [B] of each batch of this epoch."""
        chunks = list(self._order().to(self.split[0].device).split(self.batch_size))
        if len(chunks) > len(self):
            chunks[-2:] = [torch.cat(chunks[-2:])]
        return chunks

    def _order(self) -> torch.Tensor:
        size = len(self.split[0])
        if not self.shuffle:
            order = torch.arange(size) if self.arrangement is None else self.arrangement
            return order[self.rank :: self.world_size]
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(size, generator=generator)
        if self.world_size == 1:
            return order
        return order[torch.arange(self.rank, self._share() * self.world_size, self.world_size) % size]
