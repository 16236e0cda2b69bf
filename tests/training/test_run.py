"""A run from end to end: its record, and evaluating, predicting, repeating and resuming it."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from src import train
from src.cli.predict import predict
from src.config.compose import compose
from src.config.validate import check
from src.core.errors import UserError
from src.evaluate import evaluate
from src.models.mlp import MLP
from src.run_store.run_folder import RunFolder
from src.training.inference import load
from src.training.result import RunResult
from src.training.resume import prepare_resume
from src.training.run import Interrupted, resume, run

MakeOverrides = Callable[..., list[str]]


@pytest.fixture
def finished(fast: MakeOverrides) -> RunResult:
    return run(fast("trainer.max_epochs=2"), verbose=False)


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


# ---- the record ----------------------------------------------------------------------------------------------------


def test_a_run_writes_its_record(finished: RunResult, tmp_path: Path) -> None:
    folder = finished.folder
    assert folder.parent.parent == tmp_path / "outputs" / "runs"
    assert {"run.json", "metrics.jsonl", "config.yaml", "checkpoints"} <= {path.name for path in folder.iterdir()}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished" and record["error"] is None and record["seed"] == 0
    assert record["final"] == {name: v for name, v in finished.metrics.items() if name.startswith("test/")}
    assert record["best"] | record["final"] == finished.metrics
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "val/loss" in line] == [0, 1]
    assert any("test/loss" in line for line in lines)
    assert (
        min(line["val/loss"] for line in lines if "val/loss" in line) == finished.metrics["val/loss"] == finished.value
    )


def test_the_recorded_config_is_resolved_and_reproduces_the_run(finished: RunResult) -> None:
    text = (finished.folder / "config.yaml").read_text()
    assert "${" not in text
    again = run(check(yaml.safe_load(text)), verbose=False)
    assert again.metrics == finished.metrics and again.folder != finished.folder


def test_two_runs_in_one_second_have_different_folders(fast: MakeOverrides) -> None:
    assert run(fast(), verbose=False).folder != run(fast(), verbose=False).folder


def test_a_run_is_determined_by_its_seed_including_zero(fast: MakeOverrides) -> None:
    overrides = fast("regularization=dropout")
    first, same, other = (run([*overrides, f"seed={seed}"], verbose=False).metrics for seed in (0, 0, 1))
    assert first == same
    assert first["train/loss"] != other["train/loss"] and first["test/loss"] != other["test/loss"]


def test_a_failed_run_records_its_traceback(fast: MakeOverrides, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="diverged"):
        run(fast("optimizer=sgd", "optimizer.lr=1e30", "datamodule=diabetes"), verbose=False)
    (file,) = tmp_path.glob("outputs/runs/*/*/run.json")
    record = json.loads(file.read_text())
    assert record["status"] == "failed"
    assert record["error"].startswith("Traceback") and "FloatingPointError" in record["error"]


def test_invalid_data_leave_no_run_folder(fast: MakeOverrides, tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_text("too short")
    with pytest.raises(UserError):
        run(fast("model=lstm", "datamodule=text", f"datamodule.path={file}"), verbose=False)
    assert not (tmp_path / "outputs").exists()


def test_a_callback_of_a_wrong_class_is_rejected(fast: MakeOverrides, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"callbacks\.mine\._target_"):
        run(fast("+callbacks.mine._target_=os.system"), verbose=False)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("overrides", [["callbacks=none"], ["callbacks.checkpoints=null"]], ids=str)
def test_without_checkpoints_the_last_epoch_is_reported(fast: MakeOverrides, overrides: list[str], capsys) -> None:
    result = run(fast(*overrides, "trainer.max_epochs=4", "optimizer=sgd", "optimizer.lr=4", "logger=csv"))
    assert not list(result.folder.rglob("*.ckpt"))
    rows = [row for row in RunFolder.open(result.folder).metrics() if "val/loss" in row]
    losses = [row["val/loss"] for row in rows]
    assert min(losses) != losses[-1] == result.metrics["val/loss"] == result.value
    record = json.loads((result.folder / "run.json").read_text())
    assert record["best_epoch"] is None and record["best"]["val/loss"] == losses[-1]
    assert "epoch 4, the last, as there is no best checkpoint" in capsys.readouterr().out


def test_the_loss_is_logged_once_per_optimizer_step(fast: MakeOverrides) -> None:
    overrides = ["trainer.limit_train_batches=5", "trainer.accumulate_grad_batches=2", "trainer.log_every_n_steps=1"]
    folder = run(fast(*overrides), verbose=False).folder
    assert sum("train/loss_step" in row for row in RunFolder.open(folder).metrics()) == 3


class ModelWithPath(MLP):
    """A model of an extension with an argument that is not a plain value."""

    def __init__(self, spec: Any, file: Path, **common: Any) -> None:
        super().__init__(spec, [8], **common)
        self.file = file


def test_a_checkpoint_contains_plain_values_for_all_model_arguments(
    fast: MakeOverrides, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("GRIDLIGHT_TRUST", __name__)
    composed = OmegaConf.to_container(compose(fast()), resolve=True)
    assert isinstance(composed, dict)
    composed["model"] = {
        "_target_": f"{__name__}.ModelWithPath",
        "name": "of_file",
        "file": str(tmp_path / "words.txt"),
    }
    result = run(check(composed), verbose=False)
    loaded = load(result.folder)
    assert isinstance(loaded.model, ModelWithPath) and loaded.model.file == tmp_path / "words.txt"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_rejected_run_opens_no_logger(fast: MakeOverrides, monkeypatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr("src.training.run.build_loggers", lambda *args: opened.append(args) or [])
    with pytest.raises(UserError, match="trainer"):
        run(fast("trainer.accelerator=gpu"), verbose=False)
    assert not opened
    run(fast(), verbose=False)
    assert opened


def test_advice_on_gpu_memory_is_logged(fast: MakeOverrides, monkeypatch, tmp_path: Path) -> None:
    def raise_out_of_memory(*args: Any) -> None:
        raise torch.cuda.OutOfMemoryError("no memory")

    monkeypatch.setattr("src.training.run.summarize", raise_out_of_memory)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run(fast(), tmp_path / "run", verbose=False)
    assert "out of GPU memory: use a smaller" in (tmp_path / "run" / "train.log").read_text()


# ---- loading a run folder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=cnn"],
        ["model=gru"],
        ["model=transformer"],
        ["datamodule=diabetes"],
        ["trainer.precision=64-true"],
        ["trainer.precision=bf16-true", "model=cnn"],
        ["trainer.precision=64-true", "model=transformer"],
    ],
    ids=str,
)
def test_evaluate_reproduces_the_metrics_of_training(fast: MakeOverrides, overrides: list[str]) -> None:
    result = run(fast(*overrides), verbose=False)
    for target in (result.folder, result.folder / "checkpoints" / "best.ckpt"):
        metrics = evaluate(target)
        assert metrics == {name: value for name, value in result.metrics.items() if name.startswith("test/")}
    validated = evaluate(result.folder, "val")
    assert validated["val/loss"] == result.metrics["val/loss"]
    state, model = weights(result.folder, "best"), load(result.folder).model.state_dict()
    assert all(torch.equal(state[name], model[name]) and state[name].dtype == model[name].dtype for name in state)
    assert predict(result.folder, load(result.folder).datamodule.example_inputs(2))


def test_evaluate_accepts_other_data_and_rejects_invalid_overrides(finished: RunResult) -> None:
    other = evaluate(finished.folder, overrides=["datamodule.split_seed=1"])
    assert other["test/loss"] != finished.metrics["test/loss"]
    with pytest.raises(UserError, match=r"split=tset.*'test'"):
        evaluate(finished.folder, "tset")
    with pytest.raises(UserError, match=r"'split_sed'.*'split_seed'"):
        evaluate(finished.folder, overrides=["datamodule.split_sed=1"])
    with pytest.raises(UserError, match="keeps its model"):
        evaluate(finished.folder, overrides=["model=cnn"])
    with pytest.raises(UserError, match="nowhere: there is no such"):
        evaluate(finished.folder.with_name("nowhere"))


@pytest.mark.parametrize("data", ["digits", "wine", "breast_cancer"])
def test_predict_agrees_with_the_model_on_classes(fast: MakeOverrides, data: str) -> None:
    result = run(fast(f"datamodule={data}", "trainer.max_epochs=2"), verbose=False)
    loaded = load(result.folder)
    batch = loaded.datamodule.split("test")
    with torch.no_grad():
        logits = loaded.model(*batch.inputs).double()[:3]
    probabilities = torch.stack([1 - logits.sigmoid(), logits.sigmoid()], 1) if logits.ndim == 1 else logits.softmax(1)
    predictions = predict(result.folder, loaded.datamodule.example_inputs(3))
    names = list(loaded.datamodule.spec.class_names)
    for prediction, expected in zip(predictions, probabilities, strict=True):
        assert prediction["prediction"] == names[int(expected.argmax())]
        actual = [prediction["probabilities"][name] for name in names]
        assert actual == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-6)


def test_predictions_are_in_the_units_of_the_data(fast: MakeOverrides) -> None:
    result = run(fast("datamodule=diabetes"), verbose=False)
    loaded = load(result.folder)
    batch, rows = loaded.datamodule.split("test"), loaded.datamodule.example_inputs(3)
    with torch.no_grad():
        outputs = loaded.model(*batch.inputs)[:3].flatten()
    from sklearn.datasets import load_diabetes

    targets = load_diabetes().target  # mean and standard deviation of the training split are close to those of all data
    for prediction, output in zip(predict(result.folder, rows), outputs.tolist(), strict=True):
        expected = targets.mean() + targets.std() * output
        assert float(prediction["prediction"]) == pytest.approx(expected, rel=0.1)


def test_predicted_translations_equal_those_of_the_model(fast: MakeOverrides) -> None:
    result = run(fast("model=transformer"), verbose=False)
    loaded = load(result.folder)
    predictions = predict(result.folder, loaded.datamodule.example_inputs(3))
    source = loaded.datamodule.split("test").inputs[0][:3]
    tokens = loaded.model.generate(source)
    expected = loaded.datamodule.decode_predictions(loaded.model.task.predictions(tokens))
    assert predictions == expected


def test_predict_rejects_invalid_inputs(finished: RunResult) -> None:
    with pytest.raises(UserError):
        predict(finished.folder, ["1,2,three"])
    with pytest.raises(UserError, match="--length"):
        predict(finished.folder, ["0"], length=3)


class Evil:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_a_checkpoint_that_runs_code_is_rejected(finished: RunResult, tmp_path: Path) -> None:
    path, trace = finished.folder / "checkpoints" / "best.ckpt", tmp_path / "executed"
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {"gridlight": Evil(trace)}, path)
    with pytest.raises(UserError, match=r"best\.ckpt"):
        evaluate(finished.folder)
    assert not trace.exists()


def test_a_truncated_or_foreign_checkpoint_is_rejected(finished: RunResult, tmp_path: Path) -> None:
    path = finished.folder / "checkpoints" / "best.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"best\.ckpt"):
        evaluate(finished.folder)
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="not written by Gridlight"):
        evaluate(tmp_path / "other.ckpt")


def test_a_checkpoint_alone_is_sufficient_to_rebuild_the_model(finished: RunResult, tmp_path: Path) -> None:
    alone = tmp_path / "moved.ckpt"
    alone.write_bytes((finished.folder / "checkpoints" / "best.ckpt").read_bytes())
    assert evaluate(alone)["test/loss"] == finished.metrics["test/loss"]


# ---- interrupting and resuming -------------------------------------------------------------------------------------


class Stop(L.Callback):
    """Raise KeyboardInterrupt in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


def interrupt_in_epoch(overrides: list[str], epoch: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Interrupt a run in an epoch, and return its folder."""
    from src.training import experiment

    original, folder = experiment.build_callbacks, tmp_path / "interrupted"
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="resume="):
        patch.setattr(experiment, "build_callbacks", lambda *args: [*original(*args), Stop(epoch)])
        run(overrides, folder, verbose=False)
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    return folder


def test_a_run_without_checkpoints_offers_no_resume(fast: MakeOverrides, monkeypatch) -> None:
    monkeypatch.setattr("src.training.experiment.build_callbacks", lambda *args: [Stop(0)])
    with pytest.raises(Interrupted, match="kept no checkpoint"):
        run(fast("callbacks=none"), verbose=False)


RESUMED = [
    ["regularization=[dropout,mixup]", "scheduler=cosine", "scheduler.warmup_steps=4"],
    ["model=cnn", "optimizer=momentum", "scheduler=plateau", "scheduler.patience=0", "regularization=augmentation"],
    ["model=lstm", "optimizer=adabound", "scheduler=step", "scheduler.step_size=2"],
    ["model=transformer", "optimizer=adamw", "scheduler=inverse_sqrt"],
    ["datamodule=audio_folder", "regularization=audio_augmentation"],
    ["model=gru", "datamodule=text_classification", "regularization=synonyms", "datamodule.batch_size=8"],
]


@pytest.mark.parametrize("overrides", RESUMED, ids=lambda overrides: overrides[0])
def test_a_resumed_run_is_exact(fast: MakeOverrides, overrides: list[str], monkeypatch, tmp_path: Path) -> None:
    overrides = fast(*overrides, "trainer.max_epochs=4", "trainer.limit_train_batches=3")
    whole = run(overrides, verbose=False)
    folder = interrupt_in_epoch(overrides, 2, monkeypatch, tmp_path)
    config, record = prepare_resume(str(folder), [])
    result = resume(config, record, verbose=False)
    assert result.status == "finished" and result.folder == folder
    assert result.metrics == whole.metrics
    for name, tensor in weights(whole.folder).items():
        assert torch.equal(tensor, weights(folder)[name]), name
    shown = ("train/loss", "val/loss", "lr")
    curves = [
        [{k: row[k] for k in shown if k in row} for row in RunFolder.open(path).metrics() if "val/loss" in row]
        for path in (whole.folder, folder)
    ]
    assert curves[0] == curves[1] and len(curves[0]) == 4


def test_the_command_line_resumes_and_trains_further(fast: MakeOverrides, monkeypatch, tmp_path: Path) -> None:
    overrides = fast("trainer.max_epochs=3")
    folder = interrupt_in_epoch(overrides, 1, monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "argv", ["src.train", f"resume={folder}"])
    train.main()
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished" and len(record["resumed"]) == 1
    with pytest.raises(UserError, match="finished"):
        prepare_resume(str(folder), [])
    monkeypatch.setattr(sys, "argv", ["src.train", f"resume={folder}", "trainer.max_epochs=5"])
    train.main()
    longer = run([*overrides, "trainer.max_epochs=5"], verbose=False)
    record = json.loads((folder / "run.json").read_text())
    assert record["best"] | record["final"] == longer.metrics


def test_overrides_of_a_resumed_run_apply_to_its_recorded_config(
    fast: MakeOverrides, monkeypatch, tmp_path: Path
) -> None:
    """`logger.csv` is only in the recorded config: no config is composed."""
    folder = interrupt_in_epoch(fast("logger=csv", "trainer.max_epochs=2"), 1, monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "argv", ["src.train", f"resume={folder}", "logger.csv.name=table"])
    train.main()
    assert (folder / "table" / "metrics.csv").is_file()


def test_a_resumed_run_cannot_change_its_model(finished: RunResult, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["src.train", f"resume={finished.folder}", "model=cnn"])
    with pytest.raises(SystemExit) as stop:
        train.main()
    assert stop.value.code == 2 and "keeps its model" in capsys.readouterr().err


def read_record_files(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("run.json", "config.yaml", "metrics.jsonl")]


def test_a_run_finds_its_data_file_from_another_working_directory(
    fast: MakeOverrides, users_files, monkeypatch, tmp_path: Path
) -> None:
    (source,) = users_files("text")
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "book.txt").write_bytes(Path(source.partition("=")[2]).read_bytes())
    overrides = fast("model=lstm", "datamodule=text", "datamodule.path=book.txt", "trainer.max_epochs=1")
    hashes = []
    for folder in (there, here):
        monkeypatch.chdir(folder)
        result = run(overrides, verbose=False)
        hashes.append(RunFolder.open(result.folder).record["config_hash"])
    assert hashes[0] == hashes[1]  # independent of the folder of the project
    monkeypatch.chdir(tmp_path)
    assert evaluate(result.folder)["test/loss"] == result.metrics["test/loss"]
    (here / "book.txt").rename(tmp_path / "moved.txt")
    with pytest.raises(UserError, match=r"book\.txt: there is no such file"):
        prepare_resume(str(result.folder), ["trainer.max_epochs=2"])
    moved = ["trainer.max_epochs=2", "datamodule.path=moved.txt"]
    assert resume(*prepare_resume(str(result.folder), moved), verbose=False).status == "finished"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_rejected_resume_changes_no_file(finished: RunResult) -> None:
    before = read_record_files(finished.folder)
    with pytest.raises(UserError, match="trainer"):
        resume(*prepare_resume(str(finished.folder), ["trainer.accelerator=gpu"]), verbose=False)
    assert read_record_files(finished.folder) == before
    resume(*prepare_resume(str(finished.folder), ["trainer.max_epochs=3"]), verbose=False)  # the lock was released


def test_a_truncated_last_checkpoint_is_named_and_the_run_does_not_change(finished: RunResult) -> None:
    before, last = read_record_files(finished.folder), finished.folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"last\.ckpt: this checkpoint cannot be read"):
        resume(*prepare_resume(str(finished.folder), ["trainer.max_epochs=3"]), verbose=False)
    assert read_record_files(finished.folder) == before


@pytest.mark.parametrize("contents", [{"state_dict": {}}, [1, 2]])
def test_a_foreign_last_checkpoint_is_named(finished: RunResult, contents: object) -> None:
    torch.save(contents, finished.folder / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt: this checkpoint was not written by Gridlight"):
        resume(*prepare_resume(str(finished.folder), ["trainer.max_epochs=3"]), verbose=False)


def test_the_error_for_an_invalid_checkpoint_does_not_suggest_unsafe_loading(finished: RunResult) -> None:
    with pytest.raises(UserError, match="what could run code is not loaded"):
        evaluate(finished.folder / "config.yaml")


def test_a_resumed_run_with_a_user_error_after_training_is_failed(finished: RunResult, monkeypatch) -> None:
    from src.training import experiment

    class RaiseUserError(L.Callback):
        def on_train_epoch_end(self, *args) -> None:
            raise UserError("no further")

    original = experiment.build_callbacks
    monkeypatch.setattr(experiment, "build_callbacks", lambda *args: [*original(*args), RaiseUserError()])
    with pytest.raises(UserError, match="no further"):
        resume(
            *prepare_resume(str(finished.folder), ["trainer.max_epochs=4", "trainer.log_every_n_steps=1"]),
            verbose=False,
        )
    record = json.loads((finished.folder / "run.json").read_text())
    assert record["status"] == "failed" and "no further" in record["error"]


# ---- from Python ---------------------------------------------------------------------------------------------------


def test_run_accepts_overrides_a_composed_or_a_validated_config(fast: MakeOverrides) -> None:
    overrides = fast()
    arguments = (overrides, compose(overrides), check(compose(overrides)))
    metrics = [run(argument, verbose=False).metrics for argument in arguments]
    assert metrics[0] == metrics[1] == metrics[2]


def test_a_run_prints_its_parameters_and_the_next_command(fast: MakeOverrides, capsys) -> None:
    result = run(fast())
    shown = capsys.readouterr().out
    assert "mlp on digits" in shown and "finished" in shown and str(result.folder) in shown.replace("\n", "")
    assert "parameters" in shown and "python -m src.evaluate" in shown


def test_a_path_with_markup_characters_is_printed_unchanged(fast: MakeOverrides, tmp_path: Path, capsys) -> None:
    run(fast(), tmp_path / "[proj]" / ":smile:")
    assert capsys.readouterr().out.count("/[proj]/:smile:") == 3


def test_debug_overfit_memorises_its_batch(fast: MakeOverrides) -> None:
    ignored = ("trainer.limit", "trainer.max_epochs")
    overrides = [override for override in fast("debug=overfit") if not override.startswith(ignored)]
    result = run([*overrides, "trainer.max_epochs=150", "optimizer.lr=0.01"], verbose=False)
    losses = [row["train/loss"] for row in RunFolder.open(result.folder).metrics() if "train/loss" in row]
    assert losses[-1] < 0.01 < losses[0]
