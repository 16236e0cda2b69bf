"""`src.export` writes programs whose outputs equal the model's, or reports why it cannot."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from src.config.compose import compose
from src.config.groups import CONF, groups
from src.config.validate import check
from src.core.errors import UserError
from src.export import main
from src.exporters import programs
from src.exporters.export import export
from src.run_store.run_folder import RunFolder
from src.training.build import build_data, build_model
from src.training.inference import LoadedModel
from src.training.run import run

MODELS = list(groups([CONF])["model"])
ONNX = ("mlp", "cnn", "gru", "transformer")


def loaded(overrides: list[str]) -> LoadedModel:
    """Return the model of some overrides, with random weights."""
    config = check(compose(overrides))
    torch.manual_seed(0)
    datamodule = build_data(config)
    datamodule.setup()
    return LoadedModel(config, datamodule, build_model(config, datamodule.spec).eval(), Path())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_exported_or_rejected_with_a_reason(
    name: str, fast: Callable[..., list[str]], tmp_path: Path
) -> None:
    model = loaded(fast(f"model={name}"))
    (exported,) = programs.export(model, tmp_path, ["torch"])
    program = torch.export.load(exported.file).module()
    batch = model.datamodule.collate(type(w := model.datamodule.split("val"))(*(tensor[:5] for tensor in w)))
    with torch.no_grad():
        torch.testing.assert_close(program(*batch.inputs), model.model(*batch.inputs), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ONNX)
def test_onnx_outputs_equal_those_of_the_model(name: str, fast: Callable[..., list[str]], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = loaded(fast(f"model={name}"))
    (exported,) = programs.export(model, tmp_path, ["onnx"])
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"], "one file, with the weights in it"
    session = onnxruntime.InferenceSession(str(exported.file))
    split = model.datamodule.split("val")
    batch = model.datamodule.collate(type(split)(*(tensor[:5] for tensor in split)))
    inputs = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), batch.inputs, strict=True)}
    assert list(inputs) == list(exported.inputs)
    with torch.no_grad():
        expected = model.model(*batch.inputs)
    torch.testing.assert_close(torch.from_numpy(session.run(None, inputs)[0]), expected, atol=1e-4, rtol=1e-4)


def test_different_outputs_are_rejected(
    fast: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(program: object, names: object, file: Path) -> Callable[..., torch.Tensor]:
        file.touch()
        return lambda x: torch.zeros(len(x), 10)

    monkeypatch.setitem(programs._WRITERS, "torch", wrong)
    with pytest.raises(UserError, match="its outputs differ from the model's by"):
        programs.export(loaded(fast("model=mlp")), tmp_path, ["torch"])
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_exported_is_rejected_with_the_reason(
    fast: Callable[..., list[str]], tmp_path: Path
) -> None:
    model = loaded(fast("model=mlp"))
    forward = model.model.forward
    model.model.forward = lambda x: forward(x) if float(x.sum()) > 0 else forward(-x)  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"MLP cannot be exported: .*data-dependent"):
        programs.export(model, tmp_path, ["torch"])


@pytest.mark.slow
def test_a_recurrent_network_on_padded_texts_is_rejected(fast: Callable[..., list[str]], tmp_path: Path) -> None:
    model = loaded(fast("model=lstm", "datamodule=text_classification"))
    with pytest.raises(UserError, match=r"LSTM cannot be exported: .*packs padded sequences by their lengths"):
        programs.export(model, tmp_path, ["torch"])


@pytest.mark.slow
def test_a_run_is_exported_with_a_model_card(
    fast: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(fast("model=mlp"), verbose=False)
    main([str(result.folder), "--format", "torch", "--to", str(tmp_path / "there")])
    assert "largest difference" in capsys.readouterr().out
    card = (tmp_path / "there/README.md").read_text()
    for part in (
        "## Intended use",
        f"| {result.metrics['test/accuracy']:.4g} |",
        "`optimizer.lr`",
        "model.pt2",
        "Class names: 0, 1",
    ):
        assert part in card
    code = card.partition("```python\n")[2].partition("```")[0].replace("model(x)", "model(torch.zeros(3, 1, 8, 8))")
    process = subprocess.run(
        [sys.executable, "-c", code + "print(outputs.shape)"], cwd=tmp_path / "there", capture_output=True
    )
    assert process.stdout.decode().strip() == "torch.Size([3, 10])", process.stderr


@pytest.mark.parametrize("name", ["model.pt2", "README.md", "folder"])
def test_links_in_the_folder_of_the_run_are_not_followed(
    name: str, fast: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(fast("model=mlp"))
    monkeypatch.setattr("src.training.inference.load", lambda path: model)
    monkeypatch.setattr("src.exporters.model_card.model_card", lambda *arguments: "card")
    run_folder = RunFolder.create(tmp_path / "run", model.config.plain(), [])
    run_folder._release()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    if name == "folder":
        (run_folder.path / "export").symlink_to(outside)
        with pytest.raises(UserError, match="this is a link"):
            export(run_folder.path, ["torch"])
    else:
        (run_folder.path / "export").mkdir()
        (run_folder.path / "export" / name).symlink_to(outside / "mine")
        (exported,) = export(run_folder.path, ["torch"])
        assert not (run_folder.path / "export" / name).is_symlink()
        assert exported.file == run_folder.path / "export/model.pt2" and exported.file.stat().st_size > 1000
    assert [file.read_text() for file in outside.iterdir()] == ["mine"]


def test_a_folder_that_cannot_be_written_is_named(
    fast: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(fast("model=mlp"))
    monkeypatch.setattr("src.training.inference.load", lambda path: model)
    run_folder = RunFolder.create(tmp_path / "run", model.config.plain(), [])
    (run_folder.path / "export").write_text("a file in the way")
    with pytest.raises(UserError, match=r"run/export: this is not a folder"):
        export(run_folder.path, ["torch"])


def test_invalid_input_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no such run folder"):
        export(tmp_path / "nothing")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install -c constraints.txt -e .\[onnx\]"):
        programs._check_onnx()
