"""Batches that worker processes read from files while the model trains; as exact to resume as those in memory."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_all_start_methods
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from src.core.batches import Batch, LabelledBatch
from src.core.errors import UserError
from src.core.process import end_with_parent
from src.core.resources import usable_cores
from src.datamodules.loaders.in_memory import BatchLoader

Read = Callable[[Tensor, bool], Tensor]
"""Makes the inputs of the examples whose numbers [B] it is given, changed by the augmentation or not."""
_START = "fork" if "fork" in get_all_start_methods() else None
"""How workers start: at once, also in a process that was itself spawned, where each would import everything anew."""
AHEAD = 2
"""Batches that each worker has ready."""


def default_workers() -> int:
    """Return how many processes read: all cores but the one that trains, from one to eight."""
    return min(max(usable_cores() - 1, 1), 8)


class StreamLoader(BatchLoader):
    """Batches in the order of `BatchLoader`, whose inputs are read from files when their turn comes.

    What is random in reading (augmentation) follows from seed, epoch and batch, however many workers there are, and
    leaves the process's own generators alone.

    Args:
        split: the answers, and numbers in the place of the inputs.
        batch_size: examples a batch.
        read: makes the inputs; it must survive pickling.
        augment: change them by the augmentation.
        workers: processes that read; 0 reads in this one.
        how: other arguments of `BatchLoader`.
    """

    def __init__(
        self, split: LabelledBatch, batch_size: int, read: Read, augment: bool, workers: int, **how: Any
    ) -> None:
        super().__init__(split, batch_size, **how)
        self.read, self.augment = read, augment
        self.workers = workers

    def cut(self, indices: Sequence[Tensor], start: int) -> Iterator[Batch]:
        assert isinstance(self.split, LabelledBatch)
        numbered = list(enumerate(indices))[start:]
        orders = [(self.split.x[index], (self.seed, self.epoch, number, self.rank)) for number, index in numbered]
        loader = DataLoader(
            _Files(self.read, self.augment),
            batch_size=None,
            sampler=orders,  # type: ignore[arg-type]
            num_workers=self.workers,
            prefetch_factor=AHEAD if self.workers else None,
            multiprocessing_context=_START if self.workers else None,
            worker_init_fn=_begin,
            generator=torch.Generator(),  # the seeds of workers are of no use here, and not the process's to give
        )
        batches = iter(loader)
        for _, index in numbered:
            try:
                found = next(batches)
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise UserError(
                    "a process that reads files was killed, as where memory runs out: datamodule.workers=0 reads without "
                    "others, a smaller datamodule.batch_size needs less"
                ) from error
            if isinstance(found, UserError):
                raise found
            yield LabelledBatch(found, self.split.y[index])


def _begin(worker: int) -> None:
    """End at once when the run is killed: a process of it that lives on holds its folder's lock, and it could not resume."""
    end_with_parent()


@dataclass(frozen=True)
class _Files(Dataset):
    read: Read
    augment: bool

    def __getitem__(self, order: tuple[Tensor, tuple[int, ...]]) -> Tensor | UserError:
        """Return the inputs, or what is wrong with a file: as an exception it would lose its words on the way."""
        numbers, seed = order
        try:
            with seeded(seed):
                return self.read(numbers, self.augment)
        except UserError as error:
            return error


@contextmanager
def seeded(seed: tuple[int, ...]) -> Iterator[None]:
    """Let every generator (Python, NumPy, torch on the CPU) begin at a seed, and go on afterwards as if nothing was."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    words = np.random.SeedSequence(seed).generate_state(3)
    try:
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        torch.default_generator.manual_seed(int(words[2]))  # this one alone: torch.manual_seed seeds GPUs too
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
