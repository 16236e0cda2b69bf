"""Every option of every group trains for a few steps, is evaluated and recorded. Options are found, not listed here."""

import json
import math
from collections.abc import Callable

import pytest
import torch

from src.config.groups import CONF, groups
from src.training.run import run

NEEDS_GPU = {"trainer=gpu", "trainer=fsdp"}
SEVERAL_PROCESSES = {"trainer=ddp", "trainer=fsdp"}
CHOICES = [
    f"{group}={name}" for group, names in groups([CONF]).items() if not group.startswith("hydra") for name in names
]

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def with_gpu_mark(choice: str):
    marks = [pytest.mark.gpu, no_gpu] if choice in NEEDS_GPU else []
    return pytest.param(choice, marks=marks)


def check_record(result) -> None:
    record = json.loads((result.folder / "run.json").read_text())
    assert record["status"] == result.status == "finished"
    metrics = result.metrics
    assert (
        math.isfinite(metrics["train/loss"])
        and math.isfinite(metrics["val/loss"])
        and math.isfinite(metrics["test/loss"])
    )
    assert all(math.isfinite(value) for value in metrics.values()), metrics
    assert result.value == metrics[result.monitor]


@pytest.mark.parametrize("choice", [with_gpu_mark(choice) for choice in CHOICES if choice not in SEVERAL_PROCESSES])
def test_option_trains(fast: Callable[..., list[str]], choice: str) -> None:
    check_record(run(fast(choice), verbose=False))


PAIRS = [  # in addition to the default data of every model and the model of every data source
    ("model=mlp", "datamodule=breast_cancer"),
    ("model=mlp", "datamodule=diabetes"),
    ("model=mlp", "datamodule=mackey_glass"),
    ("model=lstm", "datamodule=digits"),
    ("model=gru", "datamodule=text"),
    ("model=transformer", "datamodule=digits"),
    ("model=transformer", "datamodule=mackey_glass"),
    ("model=cnn", "regularization=[dropout,mixup,cutmix,augmentation,batch_norm,label_smoothing,l2]"),
    ("model=transformer", "optimizer=adamw", "scheduler=inverse_sqrt", "regularization=transformer_paper"),
    ("optimizer=momentum", "scheduler=cosine", "scheduler.warmup_steps=1", "trainer.accumulate_grad_batches=2"),
]


@pytest.mark.parametrize("overrides", PAIRS, ids=lambda overrides: "+".join(overrides))
def test_combination_trains(fast: Callable[..., list[str]], overrides: tuple[str, ...]) -> None:
    check_record(run(fast(*overrides), verbose=False))


@pytest.mark.slow
@pytest.mark.parametrize("data", ["digits", "diabetes"])
def test_two_processes_train_like_one(command, fast: Callable[..., list[str]], tmp_path, data: str) -> None:
    """Two processes with half a batch each take the same steps as one, and report the same metrics."""
    overrides = fast(
        f"datamodule={data}",
        "optimizer=sgd",
        "optimizer.lr=0.1",
        "trainer.precision=64-true",
        "trainer.max_epochs=3",
        "trainer.limit_train_batches=4",
        "trainer.limit_val_batches=null",
        "trainer.limit_test_batches=null",
    )
    single = run([*overrides, "datamodule.batch_size=32"], tmp_path / "single", verbose=False)
    ddp_overrides = [
        *overrides,
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.precision=64-true",
        "trainer.max_epochs=3",
    ]
    completed = command("src.train", *ddp_overrides, "datamodule.batch_size=16")
    assert completed.returncode == 0, completed.stderr
    (path,) = tmp_path.glob("outputs/runs/*/*/run.json")
    record = json.loads(path.read_text())
    assert record["status"] == "finished"
    assert record["best"] | record["final"] == pytest.approx(single.metrics, rel=1e-9)
    single_checkpoint, ddp_checkpoint = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (single.folder, path.parent)
    )
    for name, tensor in single_checkpoint["state_dict"].items():
        torch.testing.assert_close(ddp_checkpoint["state_dict"][name], tensor, rtol=1e-9, atol=1e-12)
    states = [state["torch"] for state in ddp_checkpoint["random_states"]]
    assert len(states) == 2 and not torch.equal(
        *states
    )  # each process draws different dropout, mixing and augmentation


@pytest.mark.slow
@pytest.mark.gpu
@two_gpus
def test_fsdp_trains_on_two_gpus(command, fast: Callable[..., list[str]]) -> None:
    completed = command("src.train", *fast("trainer=fsdp"))
    assert completed.returncode == 0, completed.stderr
