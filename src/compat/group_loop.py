"""Lightning's loops with steps of a whole group of jobs, and the checkpoint contents of one job of the group.

Tested with Lightning 2.6. Gain: fused training (`src.fused`). Where a private name of Lightning is missing, or in stock mode,
`group_problem` returns the reason, and jobs are trained one by one.
"""

from typing import TYPE_CHECKING, Any, Protocol

import lightning as L
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from torch import Tensor

from src.compat.lightning_names import DataFetcher, EvaluationLoop, TrainingEpochLoop, loop_problem
from src.core.batches import Batch

_IMPORT_ERROR: ImportError | None = None
if TYPE_CHECKING:
    from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
    from lightning.pytorch.loops.progress import _SchedulerProgress
    from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
else:
    try:
        from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
        from lightning.pytorch.loops.progress import _SchedulerProgress
        from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
    except ImportError as error:
        _IMPORT_ERROR = error
        _AutomaticOptimization = _CheckpointConnector = object
        _SchedulerProgress = None

CONNECTOR_NAMES = ("dump_checkpoint", "_get_lightning_module_state_dict", "_get_loops_state_dict")


class TrainableGroup(Protocol):
    """Methods of a group that the loops call."""

    def step(self, batch: Batch) -> Tensor:
        """Take one optimizer step of every member."""
        ...

    def end_step(self, index: int, epoch_ends: bool) -> None:
        """Step the schedules after a batch of an epoch."""
        ...

    def save_if_due(self) -> None:
        """Save states between two steps where that is due."""
        ...

    def validate(self, batch: Batch) -> None:
        """Evaluate every member on one validation batch."""
        ...


def group_problem(trainer: L.Trainer) -> str | None:
    """Return why this version of Lightning does not support fused training; None if it does.

    Args:
        trainer: any trainer that is not running.
    """
    if _IMPORT_ERROR is not None:
        return str(_IMPORT_ERROR)
    if (problem := loop_problem(trainer)) is not None:
        return problem
    missing = [name for name in CONNECTOR_NAMES if not hasattr(_CheckpointConnector, name)]
    if missing or not hasattr(trainer, "_checkpoint_connector"):
        return f"Lightning {L.__version__} has no _CheckpointConnector.{(missing or ['__init__'])[0]}"
    return None


def install_group_loop(trainer: L.Trainer, group: TrainableGroup) -> None:
    """Replace the loop of a trainer over the batches of an epoch by one that trains a group."""
    trainer.fit_loop.epoch_loop = _GroupEpochLoop(trainer, group)


def loops_state(trainer: L.Trainer) -> dict[str, Any]:
    """Return the progress of the loops of a trainer, as a checkpoint contains it."""
    return trainer._checkpoint_connector._get_loops_state_dict()


def on_device(trainer: L.Trainer, batch: Batch) -> Batch:
    """Return a batch in the precision and on the device of the models."""
    return trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))  # type: ignore[no-any-return]


class _GroupOptimization(_AutomaticOptimization):
    """Optimizer step of a group within Lightning's own step, which is taken after a resume."""

    def __init__(self, trainer: L.Trainer, group: TrainableGroup) -> None:
        super().__init__(trainer)
        self._group = group

    def run(self, optimizer: Any, batch_idx: int, kwargs: Any) -> dict[str, Any]:
        self.step(kwargs["batch"])
        return {}

    def step(self, batch: Batch) -> None:
        """Take the step of the group, and count it."""
        progress = self.optim_progress.optimizer
        progress.zero_grad.increment_ready()
        progress.zero_grad.increment_started()
        progress.zero_grad.increment_completed()
        progress.step.increment_ready()
        self._group.step(batch)
        progress.step.increment_completed()


class _GroupEpochLoop(TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, with its counters; each step is a step of the whole group."""

    def __init__(self, trainer: L.Trainer, group: TrainableGroup) -> None:
        super().__init__(trainer, max_steps=trainer.max_steps)
        self._group = group
        self.automatic_optimization = _GroupOptimization(trainer, group)
        self.val_loop = _GroupEvaluationLoop(trainer, group)

    def advance(self, data_fetcher: DataFetcher) -> None:
        if self.restarting:
            super().advance(data_fetcher)
            return
        batch, _, _ = next(data_fetcher)
        self.batch_progress.is_last_batch = data_fetcher.done
        batch = on_device(self.trainer, batch)
        self.batch_progress.increment_ready()
        self.batch_progress.increment_started()
        self.automatic_optimization.step(batch)  # type: ignore[attr-defined]
        self.batch_progress.increment_processed()
        self.update_lr_schedulers("step", update_plateau_schedulers=False)
        self._group.save_if_due()
        self.batch_progress.increment_completed()

    def on_advance_end(self, data_fetcher: DataFetcher) -> None:
        if self.restarting or self._num_ready_batches_reached() or self.trainer.should_stop:
            super().on_advance_end(data_fetcher)
        else:
            self._batches_that_stepped += 1

    def update_lr_schedulers(self, interval: str, update_plateau_schedulers: bool) -> None:
        if interval == "step" and not update_plateau_schedulers:
            self._group.end_step(self.batch_idx, self._num_ready_batches_reached())


class _GroupEvaluationLoop(EvaluationLoop):
    """Lightning's loop over the validation batches; each batch is evaluated for the whole group."""

    def __init__(self, trainer: L.Trainer, group: TrainableGroup) -> None:
        super().__init__(trainer, TrainerFn.FITTING, RunningStage.VALIDATING, verbose=False, inference_mode=False)
        self._group = group

    def _evaluation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int, dataloader_iter: Any) -> None:
        batch = on_device(self.trainer, batch)
        self.batch_progress.increment_ready()
        self.batch_progress.increment_started()
        with self.trainer.precision_plugin.forward_context():
            self._group.validate(batch)
        self.batch_progress.increment_processed()
        self.batch_progress.increment_completed()
        self._has_run = True
        self._seen_batches_per_dataloader[dataloader_idx] += 1


def scheduler_progress() -> Any:
    """Return Lightning's counter of the steps of learning-rate schedules."""
    return _SchedulerProgress()


class MemberCheckpointConnector(_CheckpointConnector):
    """Contents of the checkpoint of one member of a group.

    Weights, optimizer, schedules and callbacks are those of the member. The progress of the loops is that of the group, except
    for the steps of schedules, which are counted for each member.
    """

    def _get_lightning_module_state_dict(self) -> dict[str, Any]:
        return self.trainer.lightning_module.state_dict()

    def _get_loops_state_dict(self) -> dict[str, Any]:
        loops = self.trainer.loops()  # type: ignore[attr-defined]
        progress = {"epoch_loop.scheduler_progress": self.trainer.scheduler_progress.state_dict()}  # type: ignore[attr-defined]
        return {**loops, "fit_loop": loops["fit_loop"] | progress}
