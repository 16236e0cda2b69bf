"""A user's own model, data, optimizer and callback, in a package and config folder outside the repository."""

import json
import os
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
    """A single layer of their own."""

    tasks = ("regression",)
    inputs = ("vector",)

    def __init__(self, spec, width: int, gain: float = 1.0):
        super().__init__(spec)
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
    """Gradient descent of their own."""

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
    """Writes down how many epochs there were."""

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
def theirs(tmp_path: Path) -> Path:
    package, options = tmp_path / "theirs" / "ours", tmp_path / "theirs" / "options"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "parts.py").write_text(PYTHON)
    for name, text in OPTIONS.items():
        (options / name).parent.mkdir(parents=True, exist_ok=True)
        (options / name).write_text(text)
    return tmp_path / "theirs"


def path_with(theirs: Path) -> str:
    return os.pathsep.join(filter(None, [str(theirs), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.parametrize("flag", ["--config-dir", "hydra.searchpath"])
def test_their_options_are_shown_and_checked(command, theirs: Path, tmp_path: Path, flag: str) -> None:
    options = theirs / "options"
    where = [f"hydra.searchpath=[file://{options}]"] if flag == "hydra.searchpath" else ["--config-dir", str(options)]
    outputs = f"paths.outputs={tmp_path}/outputs"

    def said(*words: str) -> str:
        done = command("src.train", *where, outputs, *words, PYTHONPATH=path_with(theirs))
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    shown = command("src.train", *where, "--help").stdout
    assert all(text in shown for text in ("One layer of ours", "A line of ours", "Descent of ours", "Counts epochs"))
    assert "'linear'" in said("model=linaer", "datamodule=line")
    assert "'width'" in said(*CHOICE, "model.widht=3")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["+model.gian=3"], "'gain'"),
        (["model.width=wide"], "model.width=wide: must be a valid integer"),
        (["~model.width"], "model.width is missing"),
        (["optimizer.lr=fast"], "optimizer.lr=fast: must be a valid number"),
        (["datamodule=digits"], "linear serves regression"),
        (["model=cnn"], "Data for cnn"),
        (["model._target_=ours.parts.Linaer"], "'Linear'"),
    ],
    ids=str,
)
def test_a_class_without_a_schema_is_checked_by_its_signature(theirs: Path, monkeypatch, words, says: str) -> None:
    from src.config.compose import compose
    from src.config.validate import check
    from src.core.errors import UserError

    monkeypatch.syspath_prepend(str(theirs))
    groups = {word.partition("=")[0] for word in words}
    choice = [word for word in CHOICE if word.partition("=")[0] not in groups]
    searchpath = f"hydra.searchpath=[file://{theirs / 'options'}]"
    assert check(compose([searchpath, *CHOICE])).model.arguments() == {"width": 8, "gain": 1.0}
    with pytest.raises(UserError) as refused:
        check(compose([searchpath, *choice, *words]))
    assert says in str(refused.value)


def test_their_parts_train_and_are_measured_and_asked(command, theirs: Path, tmp_path: Path) -> None:
    def done(*words: str) -> str:
        finished = command(*words, PYTHONPATH=path_with(theirs))
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    done(
        "src.train",
        f"hydra.searchpath=[file://{theirs / 'options'}]",
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
    measured = json.loads(done("src.evaluate", str(file.parent), "--json", "--trust", "ours"))
    assert measured == record["final"]
    (answer,) = [
        json.loads(line)
        for line in done("src.predict", str(file.parent), "0.5", "--json", "--trust", "ours").splitlines()
    ]
    prediction = answer["prediction"]
    assert float(prediction["y"] if isinstance(prediction, dict) else prediction) == pytest.approx(2.0, abs=0.15)
