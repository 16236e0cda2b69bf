"""Attention maps: the plots show the weights that the model used, and the axes are labelled with the tokens."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from src.cli.predict import predict
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.diagnostics import attention_maps as attention_maps_module
from src.diagnostics.attention_maps import attention_maps
from src.models.mlp import MLP
from src.models.transformer import Transformer
from src.training.inference import load
from src.training.run import run

MakeOverrides = Callable[..., list[str]]


@pytest.fixture
def trained(fast: MakeOverrides) -> Path:
    sizes = ["model.d_model=16", "model.num_heads=2", "model.d_ff=16", "model.num_layers=2"]
    return run(fast("model=transformer", "callbacks=attention_maps", *sizes), verbose=False).folder


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Return the figures that are saved during the test, by name."""
    figures: dict[str, Figure] = {}

    def save(folder: Path, name: str, figure: Figure, loggers: object = ()) -> Path:
        figures[name] = figure
        return folder / "plots" / f"{name}.png"

    monkeypatch.setattr(attention_maps_module, "save_figure", save)
    return figures


@pytest.mark.req("T7")
def test_attention_maps_contain_the_weights_of_every_layer_and_head(trained: Path) -> None:
    loaded = load(trained)
    loaded.datamodule.setup()
    loaded.model.double()
    example = attention_maps_module.single_example(loaded.datamodule.split("val"), 0, 0)
    calls = []
    for name, layer in loaded.model.named_modules():
        if name.endswith(("attention", "cross")):

            def record(layer, inputs, keywords, name=name):
                calls.append((name, layer, inputs[0], inputs[1] if len(inputs) > 1 else inputs[0]))

            layer.register_forward_pre_hook(record, with_kwargs=True)
    maps = attention_maps(loaded.model, example)
    assert list(maps) == ["encoder-attention", "decoder-attention", "decoder-cross"]
    source_length, target_length = example.source.size(1), example.target.size(1) - 1
    assert [tuple(weights.shape) for weights in maps.values()] == [
        (2, 2, source_length, source_length),
        (2, 2, target_length, target_length),
        (2, 2, target_length, source_length),
    ]
    assert len(calls) == 6
    for name, layer, x, memory in calls:
        stack, _, number, kind = name.split(".")
        query = layer.query(x)[0].unflatten(1, (2, 8)).transpose(0, 1)
        key = layer.key_value(memory)[0, :, :16].unflatten(1, (2, 8)).transpose(0, 1)
        scores = query @ key.transpose(1, 2) / 8**0.5
        if stack == "decoder" and kind == "attention":
            scores = scores.masked_fill(torch.ones(target_length, target_length).triu(1).bool(), -torch.inf)
        expected = scores.softmax(-1)
        torch.testing.assert_close(maps[f"{stack}-{kind}"][int(number)], expected, rtol=0, atol=1e-12)


@pytest.mark.req("T7")
def test_a_run_plots_validation_examples_and_predict_plots_its_inputs(trained: Path) -> None:
    kinds = ("encoder-attention", "decoder-attention", "decoder-cross")
    plots = trained / "plots"
    assert {path.name for path in plots.iterdir()} == {
        f"attention-val-{n}-{kind}.png" for n in (1, 2) for kind in kinds
    }
    predictions = predict(trained, ["3 March 1975", "04.May"], attention=True)
    for number, prediction in enumerate(predictions, 1):
        assert prediction["attention"] == [str(plots / f"attention-{number}-{kind}.png") for kind in kinds]
        for file in prediction["attention"]:
            with Image.open(file) as image:
                assert min(image.size) > 300


@pytest.mark.req("T7")
def test_axes_are_labelled_with_tokens_and_panels_show_the_weights(trained: Path, figures: dict[str, Figure]) -> None:
    (prediction,) = predict(trained, ["3 March 1975"], attention=True)
    figure = figures["attention-1-decoder-cross"]
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [f"layer {n}, head {h}" for n in (1, 2) for h in (1, 2)]
    keys = [label.get_text() for label in panels[2].get_xticklabels()]  # only the lowest panels have labels
    assert keys == [*"3␣March␣1975", "<end>"]
    queries = [label.get_text() for label in panels[0].get_yticklabels()]
    assert "".join(queries).partition("<end>")[0].startswith(prediction["prediction"][:3])
    assert panels[0].images[0].get_array().shape == (len(queries), len(keys))
    decoder_panels = [axes for axes in figures["attention-1-decoder-attention"].axes if axes.get_title()]
    assert (
        decoder_panels[2].get_yticklabels()[0].get_text()
        == decoder_panels[2].get_xticklabels()[0].get_text()
        == "<start>"
    )
    weights = decoder_panels[-1].images[0].get_array()
    assert weights[0, 0] == 1 and not weights[0, 1:].any(), "the first token can only attend to itself"


def test_axes_are_labelled_with_image_rows_or_characters(fast: MakeOverrides, figures: dict[str, Figure]) -> None:
    sizes = ["model.d_model=8", "model.num_heads=2", "model.d_ff=8", "model.num_layers=1"]
    run(fast("model=transformer", "datamodule=digits", "callbacks=attention_maps", *sizes), verbose=False)
    axes = figures["attention-val-1-encoder-attention"].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(row) for row in range(1, 9)]
    overrides = ["trainer.precision=bf16-true", "callbacks=attention_maps", *sizes]
    folder = run(fast("model=transformer", "datamodule=text", *overrides), verbose=False).folder
    predict(folder, ["of the bo"], length=4, attention=True)
    axes = figures["attention-1-decoder-attention"].axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert "".join(names[:9]) == "of␣the␣bo" and len(names) == 12


def test_a_model_without_attention_is_rejected_before_training(fast: MakeOverrides, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"callbacks=attention_maps: MLP has no attention; model=transformer has"):
        run(fast("model=mlp", "callbacks=attention_maps"), verbose=False)
    assert not list(tmp_path.glob("outputs/runs/*/*")), "no run folder is left"
    spec = DataSpec("regression", "vector", (3,), (1,))
    with pytest.raises(UserError, match="MLP has no attention"):
        attention_maps(MLP(spec, [2]).eval(), (torch.zeros(1, 3),))  # type: ignore[arg-type]


def test_no_attention_weights_are_stored_without_the_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DataSpec("language_modelling", "tokens", (10,), (11,), vocabulary_size=11)
    model = Transformer(spec, d_model=8, num_heads=2, d_ff=8)
    monkeypatch.setattr("src.layers.attention.MultiHeadAttention._attend_and_record", None)
    model(torch.zeros(1, 4, dtype=torch.int64))
