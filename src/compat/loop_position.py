"""Position of Lightning's loops at a checkpoint that is written between steps."""

import lightning as L


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
