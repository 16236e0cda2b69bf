"""A user's model, data, optimizer and callback in a package and a config folder outside the repository."""

import json
import os
import re
from pathlib import Path

import pytest

PYTHON = '''
import torch
from torch import nn
from lightning.pytorch.callbacks import Callback

from src.core.batches import LabelledBatch
from src.datamodules.base import DataModule
from src.models.base import Model
from src.core.data_spec import DataSpec


class Linear(Model):
    """A network with one hidden layer."""

    tasks = ("regression",)
    inputs = ("vector",)

    def __init__(self, spec, width: int, gain: float = 1.0, **common):
        super().__init__(spec, **common)
        self.gain = gain
        inputs, outputs = self.spec.input_size, self.spec.output_size
        self.layers = nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, outputs))

    def forward(self, x):
        return self.gain * self.layers(x)


class Line(DataModule):
    """y = 2·x + 1."""

    task = "regression"
    inputs = "vector"

    def __init__(self, size: int, **common):
        super().__init__(**common)
        self.size = size

    @property
    def spec(self):
        return DataSpec("regression", "vector", (1,), (1,), feature_names=("x",), target_names=("y",))

    def load(self):
        x = torch.linspace(-1, 1, self.size).unsqueeze(1)
        parts = {name: x[start::3] for start, name in enumerate(("train", "val", "test"))}
        return {name: LabelledBatch(part, 2 * part + 1) for name, part in parts.items()}

    def encode(self, inputs):
        x = torch.tensor([[float(text)] for text in inputs])
        return LabelledBatch(x, torch.zeros_like(x))


class Descent(torch.optim.Optimizer):
    """Gradient descent."""

    def __init__(self, params, lr: float, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter -= group["lr"] * parameter.grad
        return loss


class Count(Callback):
    """Write a character to a file after each epoch."""

    def __init__(self, file: str):
        self.file = file

    def on_train_epoch_end(self, trainer, pl_module):
        with open(self.file, "a") as file:
            file.write("x")
'''

OPTIONS = {
    "model/linear.yaml": "# One layer of ours\nname: linear\n_target_: ours.parts.Linear\nwidth: 8\n",
    "datamodule/line.yaml": "# A line of ours\nname: line\n_target_: ours.parts.Line\nsize: 90\nbatch_size: 10\n"
    "seed: ${seed}\ndefault_epochs: 40\n",
    "optimizer/descent.yaml": "# Descent of ours\nname: descent\n_target_: ours.parts.Descent\nlr: 0.2\n",
    "callbacks/count.yaml": "# Counts epochs\ndefaults:\n  - default\n"
    "count:\n  _target_: ours.parts.Count\n  file: ???\n",
}
CHOICE = ["model=linear", "datamodule=line", "optimizer=descent"]


@pytest.fixture
def user_package(tmp_path: Path) -> Path:
    package, options = tmp_path / "theirs" / "ours", tmp_path / "theirs" / "options"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "parts.py").write_text(PYTHON)
    for name, text in OPTIONS.items():
        (options / name).parent.mkdir(parents=True, exist_ok=True)
        (options / name).write_text(text)
    return tmp_path / "theirs"


def python_path(user_package: Path) -> str:
    return os.pathsep.join(filter(None, [str(user_package), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.parametrize("flag", ["--config-dir", "hydra.searchpath"])
def test_user_options_are_listed_and_checked(command, user_package: Path, tmp_path: Path, flag: str) -> None:
    options = user_package / "options"
    flags = [f"hydra.searchpath=[file://{options}]"] if flag == "hydra.searchpath" else ["--config-dir", str(options)]
    outputs = f"paths.outputs={tmp_path}/outputs"

    def error_message(*overrides: str) -> str:
        output = command("src.train", *flags, outputs, *overrides, PYTHONPATH=python_path(user_package))
        assert output.returncode == 2 and "Traceback" not in output.stderr, output.stderr
        return output.stderr

    summaries = {"model": "One layer of ours", "datamodule": "A line of ours", "optimizer": "Descent of ours"}
    for group, summary in {**summaries, "callbacks": "Counts epochs"}.items():
        assert summary in command("src.train", *flags, "--help", group).stdout
    assert re.search(r"model\.width +8", command("src.train", *flags, "--help", "model=linear").stdout)
    assert "'linear'" in error_message("model=linaer", "datamodule=line")
    assert "'width'" in error_message(*CHOICE, "model.widht=3")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["+model.gian=3"], "'gain'"),
        (["model.width=wide"], "model.width=wide: must be a valid integer"),
        (["~model.width"], "model.width is missing"),
        (["optimizer.lr=fast"], "optimizer.lr=fast: must be a valid number"),
        (["datamodule=digits"], "linear supports regression"),
        (["model=cnn"], "Data for cnn"),
        (["model._target_=ours.parts.Linaer"], "'Linear'"),
    ],
    ids=str,
)
def test_class_without_a_schema_is_checked_by_its_signature(
    user_package: Path, monkeypatch, overrides, expected: str
) -> None:
    from src.config.compose import compose
    from src.config.validate import check
    from src.core.errors import UserError

    monkeypatch.syspath_prepend(str(user_package))
    groups = {override.partition("=")[0] for override in overrides}
    choice = [override for override in CHOICE if override.partition("=")[0] not in groups]
    searchpath = f"hydra.searchpath=[file://{user_package / 'options'}]"
    assert check(compose([searchpath, *CHOICE])).model.arguments() == {"width": 8, "gain": 1.0}
    with pytest.raises(UserError) as caught:
        check(compose([searchpath, *choice, *overrides]))
    assert expected in str(caught.value)


def test_user_classes_train_evaluate_and_predict(command, user_package: Path, tmp_path: Path) -> None:
    def output(*overrides: str) -> str:
        completed = command(*overrides, PYTHONPATH=python_path(user_package))
        assert completed.returncode == 0, completed.stderr
        return completed.stdout

    output(
        "src.train",
        f"hydra.searchpath=[file://{user_package / 'options'}]",
        *CHOICE,
        "callbacks=count",
        f"callbacks.count.file={tmp_path}/epochs",
        "logger=none",
        "trainer=cpu",
        f"paths.outputs={tmp_path}/outputs",
    )
    (file,) = tmp_path.glob("outputs/runs/*/*/run.json")
    record = json.loads(file.read_text())
    assert record["status"] == "finished" and record["final"]["test/r2"] > 0.99
    assert len((tmp_path / "epochs").read_text()) >= 5
    metrics = json.loads(output("src.evaluate", str(file.parent), "--json", "--trust", "ours"))
    assert metrics == record["final"]
    (prediction,) = [
        json.loads(line)
        for line in output("src.predict", str(file.parent), "0.5", "--json", "--trust", "ours").splitlines()
    ]
    value = prediction["prediction"]
    assert float(value["y"] if isinstance(value, dict) else value) == pytest.approx(2.0, abs=0.15)
