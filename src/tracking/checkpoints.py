"""What a run saves of itself, so that it can be resumed as if it had never stopped."""

import logging
import os
import random
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

from src.errors import UserError

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, and moves it there when it is complete and on the disk.

    Reading admits tensors and plain containers only (``weights_only``): a checkpoint from elsewhere runs no code.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        assert storage_options is None
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint onto the CPU.

        Raises:
            UserError: if there is none, or if it cannot be read.
        """
        if not Path(path).is_file():
            raise UserError(f"{path}: there is no such checkpoint")
        try:
            return super().load_checkpoint(path, map_location, weights_only is not False)
        except Exception as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(f"{path}: this checkpoint cannot be read: {first}") from error


class Checkpoints(ModelCheckpoint):
    """Saves last.ckpt after every epoch, and best.ckpt after every epoch that is better than all before it.

    Both are written after validation, at the very end of the epoch. The metrics of the epoch are saved too: a later epoch
    that is not validated is still compared by them.

    Args:
        dirpath: where; the run passes its folder's checkpoints/.
        monitor: the metric that selects the best epoch; None: the best is the last.
        mode: whether it should be ``min`` or ``max``.
    """

    best_epoch: int | None
    """The epoch of best.ckpt, from 0."""

    def __init__(self, dirpath: str | os.PathLike[str], monitor: str | None = None, mode: str = "min") -> None:
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
        # The best comes first: a crash in between leaves a last.ckpt that knows nothing of it and repeats the epoch.
        if self.monitor is None or self.monitor in candidates:
            self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)

    def _update_best_and_save(self, current: Tensor, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self.best_epoch = trainer.current_epoch
        super()._update_best_and_save(current, trainer, monitor_candidates)

    def _save_none_monitor_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        self.best_epoch = trainer.current_epoch
        super()._save_none_monitor_checkpoint(trainer, monitor_candidates)

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        """Write a state once: where best.ckpt and last.ckpt are the same, the second is a link to the first."""
        same_state = self._last_global_step_saved == trainer.global_step
        linked = same_state and trainer.is_global_zero and _link(Path(self._last_checkpoint_saved), Path(filepath))
        if not trainer.strategy.broadcast(linked):
            super()._save_checkpoint(trainer, filepath)

    # ---- resuming ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best_epoch": self.best_epoch, "metrics": self._metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        folder = str(self.dirpath)
        here = {**state_dict, "dirpath": folder}  # the run folder may have been moved since
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            here[key] = _moved(state_dict[key], folder)
        here["best_k_models"] = {_moved(path, folder): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(here)
        self.best_epoch = state_dict["best_epoch"]
        self._metrics = state_dict["metrics"]
        self._resumed = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if not self._resumed:
            return
        self._resumed = False
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in self._metrics.items()})


def _moved(path: str, folder: str) -> str:
    return os.path.join(folder, os.path.basename(path)) if path else path


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name; False where that cannot be. Replacing either leaves the other alone."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        os.link(source, partial)
        os.replace(partial, target)
    except OSError:
        return False
    return True


class RandomState(Callback):
    """Saves the state of every random generator with a checkpoint, and restores it when training resumes.

    Lightning saves none, so that dropout, batch mixing and augmentation would differ from those of a run that was not
    interrupted. It is restored before Lightning asks any loader for its first batch, as some draw their order then.
    """

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        own = random_state(trainer.strategy.root_device)
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
            restore_random_state(states[trainer.global_rank], trainer.strategy.root_device)
        else:
            log.warning(
                "the checkpoint has no random state for process %d of %d, which goes on with its seed: the run will "
                "differ from one that was not interrupted",
                trainer.global_rank + 1,
                trainer.world_size,
            )


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy and torch (CPU, and the CUDA device) as plain values."""
    version, words, gauss = random.getstate()
    numpy: dict[str, Any] = np.random.get_state(legacy=False)  # type: ignore[assignment]
    return {
        "python": [version, list(words), gauss],
        "numpy": {
            **numpy,
            "state": {"key": torch.from_numpy(numpy["state"]["key"].astype(np.int64)), "pos": numpy["state"]["pos"]},
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put the generators into a state that `random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy = state["numpy"]
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].numpy().astype(np.uint32)}})
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
