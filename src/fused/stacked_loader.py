"""Batches of a group: the data are in memory once, and each member sees them in the order of its own seed."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from src.core.batches import Batch
from src.datamodules.base import DataModule
from src.datamodules.loaders.in_memory import BatchLoader


def order_problem(datamodule: DataModule, seeds: Sequence[int]) -> str | None:
    """Return why members with these shuffling seeds cannot share the data, each in its own order; None if they can."""
    if len(set(seeds)) == 1 or not datamodule.shuffle:
        return None
    if type(datamodule).collate is not DataModule.collate:
        return "the seeds of the jobs differ, and their batches differ in length"
    if type(datamodule.train_dataloader()) is not BatchLoader:
        return "the seeds of the jobs differ, and their data are read from files batch by batch"
    return None


class StackedLoader:
    """Training batches of a group: ordinary ones [B, …] where all members see the same, else stacked [M, B, …].

    Args:
        datamodule: datamodule of all members; `order_problem` returns None for it.
        seeds: shuffling seed of each member.
    """

    batch_sampler = None

    def __init__(self, datamodule: DataModule, seeds: Sequence[int]) -> None:
        self.stacked = datamodule.shuffle and len(set(seeds)) > 1
        loader = datamodule.train_dataloader()
        self._loaders = [replace(loader, seed=seed) for seed in (seeds if self.stacked else seeds[:1])]
        self._rows = list(range(len(seeds)))

    def select(self, members: Sequence[int]) -> None:
        """Continue with these members only, given by their original positions."""
        self._rows = list(members)

    @property
    def sampler(self) -> "StackedLoader":
        """The object whose `set_epoch` Lightning calls at the start of every epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        for loader in self._loaders:
            loader.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._loaders[0])

    def state_dict(self) -> dict[str, int]:
        return self._loaders[0].state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        for loader in self._loaders:
            loader.load_state_dict(state_dict)

    def __iter__(self) -> Iterator[Batch]:
        if not self.stacked:
            yield from self._loaders[0]
            return
        orders = [self._loaders[row].indices() for row in self._rows]
        yield from self._loaders[0].counted([torch.stack(chunks) for chunks in zip(*orders, strict=True)])  # [M, B]
