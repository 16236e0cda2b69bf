"""The base class of every data source: seeded loaders over tensors, and what a checkpoint keeps of the preparation."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from torch import Tensor

from src.batches import Batch, LabelledBatch
from src.datamodules.baselines import trivial_scores
from src.datamodules.folds import Fold
from src.datamodules.loader import BatchLoader
from src.errors import UserError
from src.spec import DataSpec


class DataModule(L.LightningDataModule):
    """A data source whose splits fit into memory.

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
        self.augmentation: Any = None  # of raw training examples; set by `src.experiment.build`, absent after loading
        self._splits: dict[str, Batch] | None = None
        self._fold: Fold | None = None
        self._asked_for_fold = False

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
        return None if column is None else np.array([str(value) for value in self.groups(column)])

    @abstractmethod
    def load(self) -> dict[str, Batch]:
        """Return each split, whole, as one batch: {"train": …, "val": …, "test": …}."""

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
            self.kept_together()  # refuse a column that is not there, whether or not `load` asks for it
            self._splits = self.load()
            if self._fold is not None and not self._asked_for_fold:
                raise UserError(
                    f"cross_validation: {type(self).__name__} cannot be cut into folds; its load() must use self.fold "
                    "(docs/extending.md)"
                )

    def split(self, name: str) -> Batch:
        """Return one split, whole."""
        self.setup()
        assert self._splits is not None
        return self._splits[name]

    def loader(self, name: str, shuffle: bool = False, augment: bool = False) -> BatchLoader:
        """Return the batches of one split; on several devices only this one's share.

        Args:
            name: train, val or test.
            shuffle: draw a new order in every epoch.
            augment: change training examples by the `augmentation`, if there is one.
        """
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        split = self.split(name)
        collate: Callable[[Batch], Batch] = self.collate
        if augment and self.augmentation is not None:
            split = LabelledBatch(torch.arange(len(split.targets)), split.targets)
            collate = self._augmented_batch
        return BatchLoader(
            split,
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            training=name == "train",
            rank=rank,
            world_size=world_size,
            collate=collate,
        )

    def _augmented_batch(self, examples: Batch) -> Batch:
        assert isinstance(examples, LabelledBatch)
        return self.collate(examples._replace(x=self.augmented(examples.x)))

    def train_dataloader(self) -> BatchLoader:
        return self.loader("train", shuffle=self.shuffle, augment=True)

    def val_dataloader(self) -> BatchLoader:
        return self.loader("val")

    def test_dataloader(self) -> BatchLoader:
        return self.loader("test")
