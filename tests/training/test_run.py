"""One run from end to end: what it records, and that it can be measured, asked, repeated and resumed."""

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
from src.training.resume import resumed
from src.training.run import Interrupted, RunResult, resume, run

Words = Callable[..., list[str]]


@pytest.fixture
def finished(fast: Words) -> RunResult:
    return run(fast("trainer.max_epochs=2"), verbose=False)


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


# ---- what is recorded ----------------------------------------------------------------------------------------------


def test_a_run_records_itself(finished: RunResult, tmp_path: Path) -> None:
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


def test_the_recorded_config_is_resolved_and_gives_the_same_run(finished: RunResult) -> None:
    text = (finished.folder / "config.yaml").read_text()
    assert "${" not in text
    again = run(check(yaml.safe_load(text)), verbose=False)
    assert again.metrics == finished.metrics and again.folder != finished.folder


def test_two_runs_of_one_second_have_two_folders(fast: Words) -> None:
    assert run(fast(), verbose=False).folder != run(fast(), verbose=False).folder


def test_a_seed_decides_everything_and_zero_is_one(fast: Words) -> None:
    words = fast("regularization=dropout")
    first, same, other = (run([*words, f"seed={seed}"], verbose=False).metrics for seed in (0, 0, 1))
    assert first == same
    assert first["train/loss"] != other["train/loss"] and first["test/loss"] != other["test/loss"]


def test_a_failed_run_keeps_its_traceback(fast: Words, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="diverged"):
        run(fast("optimizer=sgd", "optimizer.lr=1e30", "datamodule=diabetes"), verbose=False)
    (file,) = tmp_path.glob("outputs/runs/*/*/run.json")
    record = json.loads(file.read_text())
    assert record["status"] == "failed"
    assert record["error"].startswith("Traceback") and "FloatingPointError" in record["error"]


def test_a_mistake_that_only_loading_shows_leaves_no_folder(fast: Words, tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_text("too short")
    with pytest.raises(UserError):
        run(fast("model=lstm", "datamodule=text", f"datamodule.path={file}"), verbose=False)
    assert not (tmp_path / "outputs").exists()


def test_a_callback_of_another_kind_is_refused(fast: Words, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"callbacks\.mine\._target_"):
        run(fast("+callbacks.mine._target_=os.system"), verbose=False)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("words", [["callbacks=none"], ["callbacks.checkpoints=null"]], ids=str)
def test_without_checkpoints_none_is_written_and_the_last_epoch_counts(fast: Words, words: list[str], capsys) -> None:
    result = run(fast(*words, "trainer.max_epochs=4", "optimizer=sgd", "optimizer.lr=4", "logger=csv"))
    assert not list(result.folder.rglob("*.ckpt"))
    rows = [row for row in RunFolder.open(result.folder).metrics() if "val/loss" in row]
    losses = [row["val/loss"] for row in rows]
    assert min(losses) != losses[-1] == result.metrics["val/loss"] == result.value
    record = json.loads((result.folder / "run.json").read_text())
    assert record["best_epoch"] is None and record["best"]["val/loss"] == losses[-1]
    assert "epoch 4, the last, as there is no best checkpoint" in capsys.readouterr().out


def test_the_loss_of_a_step_is_logged_once_a_step(fast: Words) -> None:
    words = ["trainer.limit_train_batches=5", "trainer.accumulate_grad_batches=2", "trainer.log_every_n_steps=1"]
    folder = run(fast(*words), verbose=False).folder
    assert sum("train/loss_step" in row for row in RunFolder.open(folder).metrics()) == 3


class OfFile(MLP):
    """A user's model whose argument is no plain value."""

    def __init__(self, spec: Any, file: Path) -> None:
        super().__init__(spec, [8])
        self.file = file


def test_a_checkpoint_holds_plain_values_whatever_a_model_takes(fast: Words, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GRIDLIGHT_TRUST", __name__)
    composed = OmegaConf.to_container(compose(fast()), resolve=True)
    assert isinstance(composed, dict)
    composed["model"] = {"_target_": f"{__name__}.OfFile", "name": "of_file", "file": str(tmp_path / "words.txt")}
    result = run(check(composed), verbose=False)
    loaded = load(result.folder)
    assert isinstance(loaded.model, OfFile) and loaded.model.file == tmp_path / "words.txt"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_refused_run_opens_no_logger(fast: Words, monkeypatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr("src.training.run.build_loggers", lambda *args: opened.append(args) or [])
    with pytest.raises(UserError, match="trainer"):
        run(fast("trainer.accelerator=gpu"), verbose=False)
    assert not opened
    run(fast(), verbose=False)
    assert opened


def test_advice_on_memory_is_in_the_log(fast: Words, monkeypatch, tmp_path: Path) -> None:
    def full(*args: Any) -> None:
        raise torch.cuda.OutOfMemoryError("no memory")

    monkeypatch.setattr("src.training.run.summarize", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run(fast(), tmp_path / "run", verbose=False)
    assert "out of GPU memory: a smaller" in (tmp_path / "run" / "train.log").read_text()


# ---- from a run folder alone ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
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
def test_evaluate_agrees_with_what_training_printed(fast: Words, words: list[str]) -> None:
    result = run(fast(*words), verbose=False)
    for target in (result.folder, result.folder / "checkpoints" / "best.ckpt"):
        found = evaluate(target)
        assert found == {name: value for name, value in result.metrics.items() if name.startswith("test/")}
    validated = evaluate(result.folder, "val")
    assert validated["val/loss"] == result.metrics["val/loss"]
    state, model = weights(result.folder, "best"), load(result.folder).model.state_dict()
    assert all(torch.equal(state[name], model[name]) and state[name].dtype == model[name].dtype for name in state)
    assert predict(result.folder, load(result.folder).datamodule.example_inputs(2))


def test_evaluate_takes_other_data_but_no_wrong_words(finished: RunResult) -> None:
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
def test_predict_agrees_with_the_model_on_classes(fast: Words, data: str) -> None:
    result = run(fast(f"datamodule={data}", "trainer.max_epochs=2"), verbose=False)
    loaded = load(result.folder)
    batch = loaded.datamodule.split("test")
    with torch.no_grad():
        logits = loaded.model(*batch.inputs).double()[:3]
    shares = torch.stack([1 - logits.sigmoid(), logits.sigmoid()], 1) if logits.ndim == 1 else logits.softmax(1)
    answers = predict(result.folder, loaded.datamodule.example_inputs(3))
    names = list(loaded.datamodule.spec.class_names)
    for answer, share in zip(answers, shares, strict=True):
        assert answer["prediction"] == names[int(share.argmax())]
        assert [answer["probabilities"][name] for name in names] == pytest.approx(share.tolist(), rel=1e-4, abs=1e-6)


def test_predict_answers_in_the_unit_of_the_data(fast: Words) -> None:
    result = run(fast("datamodule=diabetes"), verbose=False)
    loaded = load(result.folder)
    batch, rows = loaded.datamodule.split("test"), loaded.datamodule.example_inputs(3)
    with torch.no_grad():
        outputs = loaded.model(*batch.inputs)[:3].flatten()
    from sklearn.datasets import load_diabetes

    targets = load_diabetes().target  # the mean and deviation of the training part are near those of all
    for answer, output in zip(predict(result.folder, rows), outputs.tolist(), strict=True):
        expected = targets.mean() + targets.std() * output
        assert float(answer["prediction"]) == pytest.approx(expected, rel=0.1)


def test_predict_translates_as_the_model_does(fast: Words) -> None:
    result = run(fast("model=transformer"), verbose=False)
    loaded = load(result.folder)
    answers = predict(result.folder, loaded.datamodule.example_inputs(3))
    source = loaded.datamodule.split("test").inputs[0][:3]
    tokens = loaded.model.generate(source)
    expected = loaded.datamodule.answers(loaded.model.task.answers(tokens))
    assert answers == expected


def test_predict_refuses_what_it_cannot_read(finished: RunResult) -> None:
    with pytest.raises(UserError):
        predict(finished.folder, ["1,2,three"])
    with pytest.raises(UserError, match="--length"):
        predict(finished.folder, ["0"], length=3)


class Evil:
    """A pickle that runs a command when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_a_checkpoint_that_runs_code_is_refused(finished: RunResult, tmp_path: Path) -> None:
    path, trace = finished.folder / "checkpoints" / "best.ckpt", tmp_path / "executed"
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {"gridlight": Evil(trace)}, path)
    with pytest.raises(UserError, match=r"best\.ckpt"):
        evaluate(finished.folder)
    assert not trace.exists()


def test_a_torn_or_foreign_checkpoint_is_refused(finished: RunResult, tmp_path: Path) -> None:
    path = finished.folder / "checkpoints" / "best.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"best\.ckpt"):
        evaluate(finished.folder)
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="not written by Gridlight"):
        evaluate(tmp_path / "other.ckpt")


def test_a_checkpoint_alone_rebuilds_the_model(finished: RunResult, tmp_path: Path) -> None:
    alone = tmp_path / "moved.ckpt"
    alone.write_bytes((finished.folder / "checkpoints" / "best.ckpt").read_bytes())
    assert evaluate(alone)["test/loss"] == finished.metrics["test/loss"]


# ---- interrupted and resumed ---------------------------------------------------------------------------------------


class Stop(L.Callback):
    """Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


def interrupted(words: list[str], epoch: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Run until an epoch, and return the folder of the interrupted run."""
    from src.training import experiment

    original, folder = experiment.build_callbacks, tmp_path / "interrupted"
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="resume="):
        patch.setattr(experiment, "build_callbacks", lambda *args: [*original(*args), Stop(epoch)])
        run(words, folder, verbose=False)
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    return folder


def test_no_way_to_go_on_is_promised_without_a_checkpoint(fast: Words, monkeypatch) -> None:
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


@pytest.mark.parametrize("words", RESUMED, ids=lambda words: words[0])
def test_resumed_is_uninterrupted_bit_for_bit(fast: Words, words: list[str], monkeypatch, tmp_path: Path) -> None:
    words = fast(*words, "trainer.max_epochs=4", "trainer.limit_train_batches=3")
    whole = run(words, verbose=False)
    folder = interrupted(words, 2, monkeypatch, tmp_path)
    config, record = resumed(str(folder), [])
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


def test_the_command_line_resumes_and_trains_on(fast: Words, monkeypatch, tmp_path: Path) -> None:
    words = fast("trainer.max_epochs=3")
    folder = interrupted(words, 1, monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "argv", ["src.train", f"resume={folder}"])
    train.main()
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished" and len(record["resumed"]) == 1
    with pytest.raises(UserError, match="finished"):
        resumed(str(folder), [])
    monkeypatch.setattr(sys, "argv", ["src.train", f"resume={folder}", "trainer.max_epochs=5"])
    train.main()
    longer = run([*words, "trainer.max_epochs=5"], verbose=False)
    record = json.loads((folder / "run.json").read_text())
    assert record["best"] | record["final"] == longer.metrics


def test_the_keys_of_a_resumed_run_are_those_of_its_own_config(fast: Words, monkeypatch, tmp_path: Path) -> None:
    """`logger.csv` is in the recorded config only: nothing is composed."""
    folder = interrupted(fast("logger=csv", "trainer.max_epochs=2"), 1, monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "argv", ["src.train", f"resume={folder}", "logger.csv.name=table"])
    train.main()
    assert (folder / "table" / "metrics.csv").is_file()


def test_a_run_that_is_resumed_keeps_its_groups(finished: RunResult, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["src.train", f"resume={finished.folder}", "model=cnn"])
    with pytest.raises(SystemExit) as stop:
        train.main()
    assert stop.value.code == 2 and "keeps its model" in capsys.readouterr().err


def kept(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("run.json", "config.yaml", "metrics.jsonl")]


def test_a_run_finds_its_file_from_anywhere(fast: Words, users_files, monkeypatch, tmp_path: Path) -> None:
    (source,) = users_files("text")
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "book.txt").write_bytes(Path(source.partition("=")[2]).read_bytes())
    words = fast("model=lstm", "datamodule=text", "datamodule.path=book.txt", "trainer.max_epochs=1")
    hashes = []
    for folder in (there, here):
        monkeypatch.chdir(folder)
        result = run(words, verbose=False)
        hashes.append(RunFolder.open(result.folder).record["config_hash"])
    assert hashes[0] == hashes[1]  # a project may lie anywhere
    monkeypatch.chdir(tmp_path)
    assert evaluate(result.folder)["test/loss"] == result.metrics["test/loss"]
    (here / "book.txt").rename(tmp_path / "moved.txt")
    with pytest.raises(UserError, match=r"book\.txt: there is no such file"):
        resumed(str(result.folder), ["trainer.max_epochs=2"])
    moved = ["trainer.max_epochs=2", "datamodule.path=moved.txt"]
    assert resume(*resumed(str(result.folder), moved), verbose=False).status == "finished"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_refused_resume_changes_nothing(finished: RunResult) -> None:
    before = kept(finished.folder)
    with pytest.raises(UserError, match="trainer"):
        resume(*resumed(str(finished.folder), ["trainer.accelerator=gpu"]), verbose=False)
    assert kept(finished.folder) == before
    resume(*resumed(str(finished.folder), ["trainer.max_epochs=3"]), verbose=False)  # its lock was given back


def test_a_torn_last_checkpoint_is_named_and_the_run_stays_what_it_was(finished: RunResult) -> None:
    before, last = kept(finished.folder), finished.folder / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"last\.ckpt: this checkpoint cannot be read"):
        resume(*resumed(str(finished.folder), ["trainer.max_epochs=3"]), verbose=False)
    assert kept(finished.folder) == before


@pytest.mark.parametrize("contents", [{"state_dict": {}}, [1, 2]])
def test_a_foreign_last_checkpoint_is_named(finished: RunResult, contents: object) -> None:
    torch.save(contents, finished.folder / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt: this checkpoint was not written by Gridlight"):
        resume(*resumed(str(finished.folder), ["trainer.max_epochs=3"]), verbose=False)


def test_a_file_that_is_no_checkpoint_gets_no_advice_to_run_its_code(finished: RunResult) -> None:
    with pytest.raises(UserError, match="what could run code is not loaded"):
        evaluate(finished.folder / "config.yaml")


def test_a_resume_that_is_refused_after_it_trained_has_failed(finished: RunResult, monkeypatch) -> None:
    from src.training import experiment

    class Refuse(L.Callback):
        def on_train_epoch_end(self, *args) -> None:
            raise UserError("no further")

    original = experiment.build_callbacks
    monkeypatch.setattr(experiment, "build_callbacks", lambda *args: [*original(*args), Refuse()])
    with pytest.raises(UserError, match="no further"):
        resume(*resumed(str(finished.folder), ["trainer.max_epochs=4", "trainer.log_every_n_steps=1"]), verbose=False)
    record = json.loads((finished.folder / "run.json").read_text())
    assert record["status"] == "failed" and "no further" in record["error"]


# ---- from Python ---------------------------------------------------------------------------------------------------


def test_run_takes_words_a_composed_or_a_checked_config(fast: Words) -> None:
    words = fast()
    found = [run(what, verbose=False).metrics for what in (words, compose(words), check(compose(words)))]
    assert found[0] == found[1] == found[2]


def test_a_run_says_what_it_does_and_how_to_go_on(fast: Words, capsys) -> None:
    result = run(fast())
    shown = capsys.readouterr().out
    assert "mlp on digits" in shown and "finished" in shown and str(result.folder) in shown.replace("\n", "")
    assert "parameters" in shown and "python -m src.evaluate" in shown


def test_a_path_is_shown_as_it_is(fast: Words, tmp_path: Path, capsys) -> None:
    run(fast(), tmp_path / "[proj]" / ":smile:")
    assert capsys.readouterr().out.count("/[proj]/:smile:") == 3


def test_debug_overfit_learns_its_batch_by_heart(fast: Words) -> None:
    words = [word for word in fast("debug=overfit") if not word.startswith(("trainer.limit", "trainer.max_epochs"))]
    result = run([*words, "trainer.max_epochs=150", "optimizer.lr=0.01"], verbose=False)
    losses = [row["train/loss"] for row in RunFolder.open(result.folder).metrics() if "train/loss" in row]
    assert losses[-1] < 0.01 < losses[0]
