"""The base class of every data source: seeded loaders over tensors, and what a checkpoint keeps of the preparation."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from torch import Tensor

from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.core.resources import shown_bytes
from src.datamodules.loaders.in_memory import BatchLoader
from src.datamodules.loaders.worker_processes import StreamLoader, default_workers
from src.datamodules.splits.cross_validation import Fold, numbered
from src.tasks.naive_baseline import trivial_scores

log = logging.getLogger(__name__)

DEVICE_SHARE = 0.5
"""Share of a GPU's free memory that data may take; larger ones stay in the memory of the host."""


class DataModule(L.LightningDataModule):
    """A data source. Its splits are tensors in memory, or else (`readers`) read from files batch by batch.

    A subclass declares `task` and `inputs`, takes its own settings as keyword arguments, and implements `load`,
    `spec` and `encode`. What it fitted on the training split (means, vocabularies) it returns from `state_dict` as
    plain containers and takes back in `load_state_dict`: that is how evaluation and prediction prepare data exactly
    as training did. `load` must use a preparation that was loaded instead of fitting anew.

    Args:
        batch_size: examples a step; on several devices, on each of them.
        seed: of the shuffling.
        shuffle: draw a new order of the training examples in every epoch.
    """

    task: ClassVar[str]
    """The task that the data ask for."""
    inputs: ClassVar[str]
    """The kind of one input: vector, image, sequence or tokens."""
    raw: ClassVar[str | None] = None
    """What an example is before it becomes an input, where that can be augmented: text or audio."""

    def __init__(self, batch_size: int = 64, seed: int = 0, shuffle: bool = True) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.data_dir = Path("data")
        """Where public files are looked for."""
        self._write_dir: Path | None = None
        self.augmentation: Any = (
            None  # of raw training examples; set by `src.training.experiment.build`, absent after loading
        )
        self.readers: dict[str, Callable[[Tensor, bool], Tensor]] = {}
        """For each split that is not in memory: what makes inputs of the numbers of examples [B], and whether to change
        them by the augmentation. It must survive pickling."""
        self.workers: int | None = 0
        """Processes that read; None takes those of `src.datamodules.loaders.worker_processes.default_workers`."""
        self.movable = True
        """Whether splits may be moved to the training device."""
        self.paths: dict[str, Path] = {}
        """Where the splits lie that a person gave, of kinds that take them one by one; the others are drawn from train."""
        self.whole = False
        """Whether all that the person's file holds is the test split; `load` returns this one alone then."""
        self._asked: str | None = None
        self._splits: dict[str, Batch] | None = None
        self._fold: Fold | None = None
        self._asked_for_fold = False
        self._moved: dict[str, Batch] = {}

    @property
    def write_dir(self) -> Path:
        """Where downloads and caches are written, and looked for too. It is `data_dir`, unless that one was recorded by
        someone else: a recorded folder is read, and never written.
        """
        return self._write_dir or self.data_dir

    @write_dir.setter
    def write_dir(self, folder: Path) -> None:
        self._write_dir = folder

    @property
    def fold(self) -> Fold | None:
        """Which part of training and validation data a cross-validation validates on; `load` asks for it and cuts the data
        by it before it fits anything. None where there is no cross-validation.
        """
        self._asked_for_fold = True
        return self._fold

    @fold.setter
    def fold(self, fold: Fold | None) -> None:
        self._fold = fold

    def groups(self, column: str) -> Sequence[Any]:
        """Return the value of a column for each example, which a cross-validation keeps together.

        Raises:
            UserError: if the data have no such column.
        """
        raise UserError(f"cross_validation.group={column}: {type(self).__name__} has no columns to group by")

    def kept_together(self) -> np.ndarray | None:
        """Return the group [N] of each example where `fold` is by groups."""
        column = self._fold.group if self._fold else None
        return None if column is None else numbered([str(value) for value in self.groups(column)])[1]

    @abstractmethod
    def load(self) -> dict[str, Batch]:
        """Return each split, whole, as one batch: {"train": …, "val": …, "test": …}. Where `readers` make the inputs, the
        numbers of the examples stand in their place.
        """

    def ask_for(self, name: str, whole: bool = False) -> None:
        """Leave out every other split, where this one has a file of its own; the preparation must be there already.

        Args:
            name: train, val or test.
            whole: take all of the person's file for it.
        """
        self._asked, self.whole, self._splits = name, whole, None
        own = name in self.paths and (name == "test" or (name == "val" and self._fold is None))
        if self.paths and (whole or own):
            self.paths = {name: self.paths["train" if whole else name]}

    def place_of(self, name: str) -> Path:
        """Return where a split of `paths` was taken from."""
        return self.paths.get(name) or self.paths["train"]

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """The facts from which a model is built; may be asked for after `setup`."""

    def baseline(self) -> dict[str, float]:
        """Return what a trivial answer (majority class, mean, last value) scores on test, by the task's metrics."""
        train, test = self.split("train"), self.split("test")
        return trivial_scores(self.spec, train, test)

    @abstractmethod
    def encode(self, inputs: Sequence[str]) -> Batch:
        """Turn what a person gives to `predict` into a batch; targets are filled with zeros.

        Args:
            inputs: one text an example: a file's path, a CSV row, a sentence. The class says which.

        Raises:
            UserError: with the file, row and column of what cannot be read.
        """

    def example_inputs(self, count: int = 3) -> list[str]:
        """Return inputs in the form that `encode` takes, from the test split: for documentation and tests."""
        return []

    def answers(self, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Put a task's answers into the data's own units and words."""
        return answers

    def token_names(self, tokens: Sequence[int], target: bool = False) -> list[str]:
        """Return tokens as people read them, one by one; those of the answers, where they have their own vocabulary."""
        return [str(token) for token in tokens]

    texts: Callable[[Tensor], list[str]] | None = None
    """A method that turns target tokens [B, T] into texts, where BLEU is to be measured on them."""

    def training_texts(self) -> list[str]:
        """Return the training texts before they become tokens, in the order of the split; where `raw` is ``text``."""
        raise UserError(f"{type(self).__name__} does not tell its training texts (`training_texts`)")

    def augmented(self, index: Tensor) -> Tensor:
        """Return the inputs of some training examples [B] as `augmentation` changes them, drawn anew in every call."""
        raise AssertionError(f"{type(self).__name__} has no raw examples")

    def collate(self, batch: Batch) -> Batch:
        """Finish a batch that was cut out of a split; overridden to cut away needless padding."""
        return batch

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a preparation back; a subclass calls this first, so that splits made with another one are made anew."""
        if state_dict != self.state_dict():
            self._splits = None

    def setup(self, stage: str | None = None) -> None:
        if self._splits is None:
            if self._asked is None:
                self.kept_together()  # refuse a column that is not there, whether or not `load` asks for it
            try:
                self._splits, self._moved = self.load(), {}
            except UserError as error:
                raise UserError(self._placed(str(error))) from error
            if self._fold is not None and not self._asked_for_fold and self._asked is None:
                raise UserError(
                    f"cross_validation: {type(self).__name__} cannot be cut into folds; its load() must use self.fold "
                    "(docs/extending.md)"
                )

    def _placed(self, said: str) -> str:
        """Return what is wrong with the data, with the file and the fold."""
        places = [str(path) for path in self.paths.values()]
        if places and not any(place in said for place in places):
            said = f"{places[0]}: {said}"
        return f"cross_validation, fold {self._fold.number} of {self._fold.of}: {said}" if self._fold else said

    def split(self, name: str) -> Batch:
        """Return one split, whole, as `load` made it."""
        self.setup()
        assert self._splits is not None
        return self._splits[name]

    def examples(self, name: str, count: int) -> Batch:
        """Return the first examples of a split, as a model reads them."""
        split = self.split(name)
        few = type(split)(*(tensor[:count] for tensor in split))
        return few._replace(x=self.readers[name](few[0], False)) if name in self.readers else few  # type: ignore[call-arg]

    def listed(self, inputs: Sequence[str]) -> list[str]:
        """Return what a person gives to `predict`, one by one: a folder as the files in it, where data are of files."""
        return list(inputs)

    def loader(self, name: str, shuffle: bool = False, augment: bool = False) -> BatchLoader:
        """Return the batches of one split; on several devices only this one's share.

        Args:
            name: train, val or test.
            shuffle: draw a new order in every epoch.
            augment: change training examples by the `augmentation`, if there is one.
        """
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        split = self.split(name)
        how: dict[str, Any] = {"shuffle": shuffle, "seed": self.seed, "training": name == "train"}
        how |= {"rank": rank, "world_size": world_size, "collate": self.collate}
        if name in self.readers:
            assert isinstance(split, LabelledBatch)
            workers = default_workers() if self.workers is None else self.workers
            return StreamLoader(split, self.batch_size, self.readers[name], augment, workers, **how)
        if augment and self.augmentation is not None:
            split = LabelledBatch(torch.arange(len(split.targets)), split.targets)
            how["collate"] = self._augmented_batch
        else:
            split = self._near(name, split)
        return BatchLoader(split, self.batch_size, **how)

    def _near(self, name: str, split: Batch) -> Batch:
        """Return a split on the device that trains, where all of them fit there."""
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if device.type != "cuda" or not self.movable:
            return split
        if name not in self._moved:
            assert self._splits is not None
            needed = size_of(self._splits.values())
            free = torch.cuda.mem_get_info(device)[0] + size_of(self._moved.values())
            if needed > DEVICE_SHARE * free:
                log.info(
                    "data: %s stay in the host's memory, as %s has %s", shown_bytes(needed), device, shown_bytes(free)
                )
                return split
            self._moved[name] = type(split)(*(tensor.to(device) for tensor in split))
            log.info("data: %s of %s is resident on %s", shown_bytes(size_of([split])), name, device)
        return self._moved[name]

    def _augmented_batch(self, examples: Batch) -> Batch:
        assert isinstance(examples, LabelledBatch)
        return self.collate(examples._replace(x=self.augmented(examples.x)))

    def say_where(self) -> None:
        """Write into the log how the data are held."""
        self.setup()
        assert self._splits is not None
        if self.readers:
            workers = default_workers() if self.workers is None else self.workers
            by = {0: "this process", 1: "a worker process"}.get(workers, f"{workers} worker processes")
            log.info("data: read from files batch by batch, by %s", by)
        elif self.movable:
            log.info("data: %s in memory, as tensors", shown_bytes(size_of(self._splits.values())))

    def train_dataloader(self) -> BatchLoader:
        return self.loader("train", shuffle=self.shuffle, augment=True)

    def val_dataloader(self) -> BatchLoader:
        return self.loader("val")

    def test_dataloader(self) -> BatchLoader:
        return self.loader("test")


def size_of(batches: Iterable[Batch]) -> int:
    """Return the bytes of the tensors of some batches."""
    return sum(tensor.numel() * tensor.element_size() for batch in batches for tensor in batch)
