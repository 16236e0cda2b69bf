"""What the fork server of a sweep imports before its first job."""

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from src.config.compose import own_hydra
from src.sweeping.pool import shared_modules


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["model=cnn", "optimizer.lr=1,2", "model.kernel_size=3,5"], {"src.models.cnn", "src.datamodules.digits"}),
        (["experiment=adam_first", "seed=1,2"], {"src.models.mlp"}),
        (["callbacks.checkpoints=null", "callbacks=default"], {"src.tracking.answers"}),
        (["model=cnn,mlp"], None),
        (["datamodule=glob(*)"], None),
        (["experiment=adam_first,dates"], None),
        (["model._target_=a.B,c.D"], None),
        (["sweep.resume=outputs/sweeps/x"], None),
        (["callbacks.early_stopping=3", "model._target_=my.Net"], {"src.datamodules.digits"}),
    ],
    ids=str,
)
def test_what_all_jobs_share_is_imported_and_no_more(words: list[str], expected: set[str] | None) -> None:
    with own_hydra():
        master = GlobalHydra.instance().config_loader().load_configuration("train", words, RunMode.MULTIRUN)
    found = set(shared_modules(master))
    assert not found if expected is None else expected <= found and "src.datamodules.tables" not in found
