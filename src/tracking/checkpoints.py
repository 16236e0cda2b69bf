"""What a run saves of itself, so that it can be resumed as if it had never stopped."""

import logging
import os
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from src.core.checkpoint_file import read_checkpoint_file
from src.errors import UserError
from src.models.base import Model
from src.tracking.checkpoint_schema import check_checkpoint, is_count
from src.tracking.replacing import linked, replaced
from src.tracking.stopping import stop_request

log = logging.getLogger(__name__)


CHECKPOINTS_FOLDER = "checkpoints"
"""The folder below that of a run where its checkpoints lie."""
SMALL = 2**24
"""Bytes of parameters up to which a checkpoint, a few times as large, may wait in memory."""


def _root_of(checkpoint: Path) -> Path:
    """Return the run folder of a checkpoint, which has it in checkpoints/; that of any other is the folder it lies in."""
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def _linked(source: str, target: str) -> bool:
    return Path(source).parent == Path(target).parent and linked(Path(source), Path(target), _root_of(Path(target)))


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, and moves it there when it is complete and on the disk.

    Reading admits tensors and plain containers only (`src.core.checkpoint_file`): a checkpoint from elsewhere runs no code.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        assert storage_options is None
        target = Path(path)
        root = _root_of(target)
        root.mkdir(parents=True, exist_ok=True)
        with replaced(target, root) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint onto the CPU, as data only, whatever the other arguments say.

        A checkpoint in the folder of a run may not be a link; one that a person keeps elsewhere may.

        Raises:
            UserError: if there is none, if it is damaged or holds more than data, or if Gridlight did not write it.
        """
        try:
            file = Path(path)
            in_run = file.parent.name == CHECKPOINTS_FOLDER
            checkpoint = read_checkpoint_file(file, file.parent.parent if in_run else None)
        except FileNotFoundError as error:
            raise UserError(f"{path}: there is no such checkpoint") from error
        except OSError as error:
            raise UserError(f"{path}: this checkpoint cannot be read: {error.strerror}") from error
        check_checkpoint(checkpoint, path)
        return checkpoint  # type: ignore[no-any-return]


class Checkpoints(ModelCheckpoint):
    """Saves last.ckpt after every epoch, and best.ckpt after every epoch that is better than all before it.

    Both are written after validation, at the very end of the epoch. The metrics of the epoch are saved too: a later epoch
    that is not validated is still compared by them. Where epochs are shorter than `pause`, most of a run would be
    writing: then a best epoch waits in memory, and both files are written after the first, the last, and one every
    `pause` in between. A process that is killed repeats what it did since, and comes to the same.

    last.ckpt is also written within an epoch, between two optimizer steps: at intervals, and when the run is asked to
    stop. The loader must be able to say how far it is, as `BatchLoader` is. Several processes would have to agree on the
    moment, so there only `every_n_steps` counts.

    Args:
        dirpath: where; the run passes its folder's checkpoints/.
        monitor: the metric that selects the best epoch; None: the best is the last.
        mode: whether it should be ``min`` or ``max``.
        every_n_steps: optimizer steps between two checkpoints within an epoch; None: not by steps.
        every_minutes: minutes between two checkpoints within an epoch; None: not by time.
        pause: seconds between two ends of epochs that are written; 0 writes all, as `every_n_steps`, several processes
            and models of more than `SMALL` do.
    """

    best_epoch: int | None
    """The epoch of best.ckpt, from 0."""

    def __init__(
        self,
        dirpath: str | os.PathLike[str],
        monitor: str | None = None,
        mode: str = "min",
        every_n_steps: int | None = None,
        every_minutes: float | None = None,
        pause: float = 1.0,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("every_minutes", every_minutes)):
            if value is not None and value <= 0:
                raise UserError(f"callbacks.checkpoints.{name}={value}: must be above 0, or null for none")
        super().__init__(
            dirpath=str(dirpath),
            filename="best",
            monitor=monitor,
            mode=mode,
            save_last=True,
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.best_epoch = None
        self._every_n_steps = every_n_steps
        self._every_seconds = None if every_minutes is None else 60 * every_minutes
        self.pause = 0.0 if every_n_steps else pause
        self.too_soon: Callable[[], bool] = self._too_soon
        """Whether the end of this epoch need not be written; a group of runs answers for all of its members alike."""
        self._waits = False
        self._best_in_memory: dict[str, Any] | None = None
        self._saved_at = time.monotonic()
        self._best_step: int | None = None
        self._metrics: dict[str, float] = {}
        self._resumed = False

    # ---- saving ------------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        with warnings.catch_warnings():  # that the folder of a resumed run is not empty
            warnings.simplefilter("ignore")
            super().setup(trainer, pl_module, stage)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._should_skip_saving_checkpoint(trainer):
            return
        self._metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        candidates = self._monitor_candidates(trainer)
        self._waits = self._may_wait(trainer)
        # The best comes first: a crash in between leaves a last.ckpt that knows nothing of it and repeats the epoch.
        if self.monitor is None or self.monitor in candidates:
            self._save_topk_checkpoint(trainer, candidates)
        if not self._waits:
            self._write_best(trainer)
            self._save_last_checkpoint(trainer, candidates)
        self._waits = False

    def _may_wait(self, trainer: L.Trainer) -> bool:
        """Tell whether the files of this epoch may be left to a later one, which will come."""
        if not self.pause or not self.too_soon():
            return False
        last = (
            trainer.current_epoch + 1 == trainer.max_epochs
            or trainer.fit_loop.epoch_loop.global_step == trainer.max_steps
        )
        ends = last or trainer.should_stop or stop_request.made
        return not ends and trainer.world_size == 1 and bytes_of(trainer.lightning_module) <= SMALL

    def best_weights(self, trainer: L.Trainer) -> dict[str, Tensor] | None:
        """Return the weights of the best epoch; None where they are those that the model has, or where there is none.

        Args:
            trainer: of a run whose last epoch has just ended.
        """
        if self._best_in_memory is not None:
            return self._best_in_memory["state_dict"]  # type: ignore[no-any-return]
        if not self.best_model_path or self._best_step == trainer.global_step:
            return None
        return trainer.strategy.checkpoint_io.load_checkpoint(self.best_model_path, weights_only=True)["state_dict"]  # type: ignore[no-any-return]

    def _too_soon(self) -> bool:
        return self._last_global_step_saved != 0 and time.monotonic() - self._saved_at < self.pause

    def _write_best(self, trainer: L.Trainer) -> None:
        """Write the best epoch, if it waits in memory."""
        if self._best_in_memory is not None:
            trainer.strategy.save_checkpoint(self._best_in_memory, self.best_model_path)
            self._best_in_memory = None

    def _monitor_candidates(self, trainer: L.Trainer) -> dict[str, Tensor]:
        """Return the metrics as they are: Lightning copies each, though nobody changes one in its place."""
        now = {"epoch": torch.tensor(trainer.current_epoch), "step": torch.tensor(trainer.global_step)}
        return {**trainer.callback_metrics, **now}

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if stop_request.made:  # during validation or the last step before it
            raise KeyboardInterrupt

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not (stop_request.made or self.is_due(trainer)) or not between_steps(trainer):
            return
        self.save_between_steps(trainer)
        if stop_request.made:
            raise KeyboardInterrupt

    def save_between_steps(self, trainer: L.Trainer) -> None:
        """Write last.ckpt within an epoch, unless it has this step."""
        if self._last_global_step_saved != trainer.global_step:
            self._write_best(trainer)
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def is_due(self, trainer: L.Trainer) -> bool:
        """Tell whether it is time for a checkpoint within an epoch."""
        if (
            self._every_n_steps is not None
            and trainer.global_step - self._last_global_step_saved >= self._every_n_steps
        ):
            return True
        alone = trainer.world_size == 1
        return alone and self._every_seconds is not None and time.monotonic() - self._saved_at >= self._every_seconds

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        stop_request.awaited = False
        self._write_best(trainer)
        super().on_train_end(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        stop_request.awaited = False
        self._write_best(trainer)

    def forget_best(self, trainer: L.Trainer) -> None:
        """Let the next epoch be the best whatever came before, as its weights are of another kind."""
        self._write_best(trainer)
        self.best_k_models, self.best_model_score = {}, None
        self.best_model_path = self.kth_best_model_path = ""

    def _update_best_and_save(self, current: Tensor, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self.best_epoch = trainer.current_epoch
        self._best_step = trainer.global_step
        super()._update_best_and_save(current, trainer, monitor_candidates)

    def _save_none_monitor_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self.best_epoch = trainer.current_epoch
        self._best_step = trainer.global_step
        super()._save_none_monitor_checkpoint(trainer, monitor_candidates)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        """Write a state once: where best.ckpt and last.ckpt are the same, the second is a link to the first."""
        if self._waits:
            state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            self._best_in_memory = state if getattr(trainer, "dumps_copies", False) else _copy(state)
            return
        if filepath == self.best_model_path:
            self._best_in_memory = None
        self._saved_at = time.monotonic()
        same_state = self._last_global_step_saved == trainer.global_step
        is_linked = same_state and trainer.is_global_zero and _linked(self._last_checkpoint_saved, filepath)
        if not trainer.strategy.broadcast(is_linked):
            super()._save_checkpoint(trainer, filepath)

    # ---- resuming ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        best = dict(state["best_k_models"])  # which is changed in its place
        return {**state, "best_k_models": best, "best_epoch": self.best_epoch, "metrics": self._metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back which epoch was the best. No path is taken from the state: both files are those of this folder."""
        best, last = (os.path.join(str(self.dirpath), f"{name}{self.FILE_EXTENSION}") for name in ("best", "last"))
        has_best = bool(state_dict["best_model_path"]) and os.path.isfile(best)
        score, epoch = state_dict["best_model_score"], state_dict["best_epoch"]
        metrics = state_dict["metrics"]
        if not isinstance(score, Tensor | float | int | None) or not (epoch is None or is_count(epoch)):
            raise ValueError("the score or the epoch of its best weights is no number")
        if not isinstance(metrics, dict) or not all(
            isinstance(name, str) and isinstance(value, float | int) for name, value in metrics.items()
        ):
            raise ValueError("its metrics are not numbers by their names")
        score = torch.as_tensor(score) if isinstance(score, float | int) else score
        if score is not None and score.numel() != 1:
            raise ValueError("the score of its best weights is no number")
        here = {**state_dict, "dirpath": str(self.dirpath), "best_model_score": score}
        here["best_model_path"] = here["kth_best_model_path"] = best if has_best else ""
        here["last_model_path"] = last if state_dict["last_model_path"] else ""
        here["best_k_models"] = {best: score} if has_best and state_dict["best_k_models"] and score is not None else {}
        here["kth_value"] = score if score is not None else self.kth_value
        super().load_state_dict(here)
        self.best_epoch = epoch
        self._metrics = metrics
        self._resumed = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._saved_at = time.monotonic()
        stop_request.awaited = trainer.world_size == 1 and _knows_its_position(trainer)
        if not self._resumed:
            return
        self._resumed = False
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._metrics.items()})
        if trainer.fit_loop.restarted_mid_epoch:
            _restore_position(trainer)


def bytes_of(model: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _copy(value: Any) -> Any:
    """Return plain containers with copies of their tensors, as training goes on with these."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return type(value)((key, _copy(item)) for key, item in value.items())
    return type(value)(map(_copy, value)) if type(value) in (list, tuple) else value


def between_steps(trainer: L.Trainer) -> bool:
    """Whether the state of a run is complete: no gradients are accumulated, and the epoch goes on."""
    loop = trainer.fit_loop.epoch_loop
    unfinished = not loop.batch_progress.is_last_batch and not loop._is_training_done and not trainer.should_stop
    return unfinished and not loop._should_accumulate() and _knows_its_position(trainer)


def _knows_its_position(trainer: L.Trainer) -> bool:
    loader = trainer.fit_loop._combined_loader
    return loader is not None and all(hasattr(part, "load_state_dict") for part in loader.flattened)


def _restore_position(trainer: L.Trainer) -> None:
    """Let the loader go on where it was. Lightning has done so, unless the loader was made before the checkpoint was
    read, because a schedule asked how many steps the run has.
    """
    loop = trainer.fit_loop
    if loop._combined_loader_states_to_load:
        assert loop._data_fetcher is not None
        loop._load_combined_loader_states()
        iter(loop._data_fetcher)


class RandomState(Callback):
    """Saves with a checkpoint what each process has of its own, and restores it when training resumes: the state of
    every random generator, and what a model needs to go on within an epoch.

    Lightning saves neither, so that dropout, batch mixing and augmentation would differ from those of a run that was not
    interrupted. It is restored before Lightning asks any loader for its first batch, as some draw their order then.
    """

    def __init__(self) -> None:
        self._own: dict[str, Any] = {}
        self.now: Callable[[torch.device], dict[str, Any]] = random_state
        """Tells the state that is saved; of a member of a group, that of a run of its own."""

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        own = {**self.now(trainer.strategy.root_device)}
        if isinstance(pl_module, Model):
            own |= pl_module.unfinished_epoch()
        states: list[Any] = [own]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, own)
        checkpoint["random_states"] = states

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        states = checkpoint.get("random_states", [])
        if trainer.global_rank < len(states):
            self._own = states[trainer.global_rank]
            _check_unfinished(self._own)
            restore_random_state(self._own, trainer.strategy.root_device)
        else:
            log.warning(
                "the checkpoint has no random state for process %d of %d, which goes on with its seed: the run will "
                "differ from one that was not interrupted",
                trainer.global_rank + 1,
                trainer.world_size,
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if "partial_sums" in self._own:
            assert isinstance(pl_module, Model)
            pl_module.go_on_with(self._own)
        self._own = {}


def _check_unfinished(state: dict[str, Any]) -> None:
    """Raise `ValueError` unless a state can be taken by `src.models.base.Model.go_on_with`."""
    if "partial_sums" in state:
        sums = state["partial_sums"]
        numbers = isinstance(sums, list) and len(sums) == 2
        if not numbers or not all(
            isinstance(n, int | float) or (isinstance(n, Tensor) and n.numel() == 1) for n in sums
        ):
            raise ValueError("its sums of an unfinished epoch are no numbers")
    carried = state.get("carried")
    parts = carried if isinstance(carried, tuple) else (carried,)
    if carried is not None and not all(isinstance(part, Tensor) and part.is_floating_point() for part in parts):
        raise ValueError("the state that its model carries on is damaged")


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy and torch (CPU, and the CUDA device) as plain values."""
    version, words, gauss = random.getstate()
    numpy: dict[str, Any] = np.random.get_state(legacy=False)  # type: ignore[assignment]
    return {
        "python": [version, torch.tensor(words), gauss],  # one object in the file, and not 625
        "numpy": {
            **numpy,
            "state": {"key": torch.from_numpy(numpy["state"]["key"].astype(np.int64)), "pos": numpy["state"]["pos"]},
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put the generators into a state that `random_state` returned.

    Raises:
        ValueError: if it is no such state; some generators may have been set.
    """
    try:
        version, words, gauss = state["python"]
        numpy, own, cuda = state["numpy"], state["torch"], state["cuda"]
        key = numpy["state"]["key"]
        python = (version, tuple(map(int, words.tolist())), gauss)
        _check_generators(python, numpy, key, own, cuda)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"its state of random generators is none ({error})") from error
    random.setstate(python)
    position = {**numpy["state"], "key": key.numpy().astype(np.uint32)}
    np.random.set_state({**numpy, "state": position})
    torch.set_rng_state(own)
    if device.type == "cuda" and cuda is not None:
        torch.cuda.set_rng_state(cuda.cpu(), device)


def _check_generators(python: tuple[Any, ...], numpy: dict[str, Any], key: Tensor, own: Tensor, cuda: object) -> None:
    """Check what the generators themselves would not, or not before they are changed."""
    version, words, gauss = python
    if version != 3 or len(words) != 625 or not 0 <= words[-1] <= 624 or not (gauss is None or type(gauss) is float):
        raise ValueError("Python's is damaged")
    if any(not 0 <= word < 2**32 for word in words):
        raise ValueError("Python's is damaged")
    position = numpy["state"]["pos"]
    if set(numpy) != {"bit_generator", "state", "has_gauss", "gauss"} or numpy["bit_generator"] != "MT19937":
        raise ValueError("NumPy's is damaged")
    if key.dtype != torch.int64 or key.shape != (624,) or type(position) is not int or not 0 <= position <= 624:
        raise ValueError("NumPy's is damaged")
    if (
        type(numpy["has_gauss"]) is not int
        or type(numpy["gauss"]) is not float
        or set(numpy["state"]) != {"key", "pos"}
    ):
        raise ValueError("NumPy's is damaged")
    if not isinstance(own, Tensor) or own.dtype != torch.uint8 or own.shape != torch.get_rng_state().shape:
        raise ValueError("torch's is damaged")
    if not (cuda is None or (isinstance(cuda, Tensor) and cuda.dtype == torch.uint8 and cuda.shape == (16,))):
        raise ValueError("that of the GPU is damaged")
