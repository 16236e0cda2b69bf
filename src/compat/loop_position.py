"""Position of Lightning's loops within an epoch, for checkpoints between two optimizer steps.

Tested with Lightning 2.6. Where a private name of Lightning is missing, or in stock mode, checkpoints are written at
the ends of epochs only.
"""

import lightning as L

from src.compat.lightning_names import missing_name
from src.compat.stock import log_fallback


def can_save_mid_epoch(trainer: L.Trainer) -> bool:
    """Return whether a run can be saved at its position within an epoch: no gradients are accumulated, more batches follow."""
    if not can_resume_mid_epoch(trainer):
        return False
    loop = trainer.fit_loop.epoch_loop
    unfinished = not loop.batch_progress.is_last_batch and not loop._is_training_done and not trainer.should_stop
    return unfinished and not loop._should_accumulate()


def can_resume_mid_epoch(trainer: L.Trainer) -> bool:
    """Return whether a run can be saved and resumed within an epoch, which needs loaders that can save their state."""
    if problem := missing_name(trainer):
        log_fallback("checkpoints are written at the ends of epochs only", problem)
        return False
    loader = trainer.fit_loop._combined_loader
    return loader is not None and all(hasattr(part, "load_state_dict") for part in loader.flattened)


def restore_position(trainer: L.Trainer) -> None:
    """Advance the training loader to its position in the checkpoint.

    Lightning does this itself, unless the loader was made before the checkpoint was read because a schedule needed the number
    of steps of the run.
    """
    if missing_name(trainer) is not None:
        return
    loop = trainer.fit_loop
    if loop.restarted_mid_epoch and loop._combined_loader_states_to_load:
        assert loop._data_fetcher is not None
        loop._load_combined_loader_states()
        iter(loop._data_fetcher)
