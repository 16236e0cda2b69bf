"""What the fork server of a sweep imports before its first job, and when it is started."""

from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from src.config.isolated_hydra import isolated_hydra
from src.sweeping.launchers import fork_server
from src.sweeping.launchers.local import shared_modules


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["model=cnn", "optimizer.lr=1,2", "model.kernel_size=3,5"],
            {"src.models.cnn", "src.datamodules.vision.digits"},
        ),
        (["experiment=adam_first", "seed=1,2"], {"src.models.mlp"}),
        (["callbacks.checkpoints=null", "callbacks=default"], {"src.callbacks.predictions"}),
        (["model=cnn,mlp"], None),
        (["datamodule=glob(*)"], None),
        (["experiment=adam_first,dates"], None),
        (["model._target_=a.B,c.D"], None),
        (["sweep.resume=outputs/sweeps/x"], None),
        (["callbacks.early_stopping=3", "model._target_=my.Net"], {"src.datamodules.vision.digits"}),
    ],
    ids=lambda value: " ".join(sorted(value or ["nothing"])),
)
def test_what_all_jobs_share_is_imported_and_no_more(overrides: list[str], expected: set[str] | None) -> None:
    with isolated_hydra():
        master = GlobalHydra.instance().config_loader().load_configuration("train", overrides, RunMode.MULTIRUN)
    found = set(shared_modules(master))
    assert (
        not found if expected is None else expected <= found and "src.datamodules.tabular.sklearn_tables" not in found
    )


@pytest.mark.parametrize(
    ("overrides", "cores", "early"),
    [
        (["-m", "seed=1,2"], 2, True),
        (["model=cnn", "--multirun", "hydra/launcher=fused"], 2, True),
        (["-m", "seed=1,2"], 1, False),
        (["-m", "seed=1,2", "hydra/launcher=ray"], 2, False),
        (["-m", "seed=1,2", "sweep.dry_run=true"], 2, False),
        (["-m", "seed=1,2", "--dry-run"], 2, False),
        (["-m", "--cfg", "job"], 2, False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_server_is_started_early_where_it_will_be_needed(
    overrides: list[str], cores: int, early: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[bool] = []
    monkeypatch.setattr("src.core.resources.usable_cores", lambda: cores)
    monkeypatch.setattr(fork_server, "start", lambda: started.append(True))
    fork_server.start_early(overrides)
    assert bool(started) is early


def test_the_list_of_modules_is_there_as_a_whole_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "start", lambda: None)
    monkeypatch.setattr(fork_server, "get_temp_dir", lambda: str(tmp_path))
    fork_server.set_modules(["src.models.mlp", "src.datamodules.vision.digits"])
    fork_server.set_modules(["src.models.cnn"])
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "modules": "src.models.mlp src.datamodules.vision.digits"
    }
