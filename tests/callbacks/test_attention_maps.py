"""Attention maps: the pictures show the weights that the model used, with the tokens' names on their sides."""

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

Words = Callable[..., list[str]]


@pytest.fixture
def trained(fast: Words) -> Path:
    sizes = ["model.d_model=16", "model.num_heads=2", "model.d_ff=16", "model.num_layers=2"]
    return run(fast("model=transformer", "callbacks=attention_maps", *sizes), verbose=False).folder


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures that are saved from now on, by name."""
    kept: dict[str, Figure] = {}

    def keep(folder: Path, name: str, figure: Figure, loggers: object = ()) -> Path:
        kept[name] = figure
        return folder / "plots" / f"{name}.png"

    monkeypatch.setattr(attention_maps_module, "save_picture", keep)
    return kept


@pytest.mark.req("T7")
def test_maps_hold_the_weights_of_every_layer_and_head(trained: Path) -> None:
    loaded = load(trained)
    loaded.datamodule.setup()
    loaded.model.double()
    example = attention_maps_module.single(loaded.datamodule.split("val"), 0, 0)
    used = []
    for name, layer in loaded.model.named_modules():
        if name.endswith(("attention", "cross")):

            def note(layer, inputs, keywords, name=name):
                used.append((name, layer, inputs[0], inputs[1] if len(inputs) > 1 else inputs[0]))

            layer.register_forward_pre_hook(note, with_kwargs=True)
    maps = attention_maps(loaded.model, example)
    assert list(maps) == ["encoder-attention", "decoder-attention", "decoder-cross"]
    read, written = example.source.size(1), example.target.size(1) - 1
    assert [tuple(weights.shape) for weights in maps.values()] == [
        (2, 2, read, read),
        (2, 2, written, written),
        (2, 2, written, read),
    ]
    assert len(used) == 6
    for name, layer, x, memory in used:
        stack, _, number, kind = name.split(".")
        query = layer.query(x)[0].unflatten(1, (2, 8)).transpose(0, 1)
        key = layer.key_value(memory)[0, :, :16].unflatten(1, (2, 8)).transpose(0, 1)
        scores = query @ key.transpose(1, 2) / 8**0.5
        if stack == "decoder" and kind == "attention":
            scores = scores.masked_fill(torch.ones(written, written).triu(1).bool(), -torch.inf)
        expected = scores.softmax(-1)
        torch.testing.assert_close(maps[f"{stack}-{kind}"][int(number)], expected, rtol=0, atol=1e-12)


@pytest.mark.req("T7")
def test_a_run_draws_validation_examples_and_predict_draws_what_it_is_given(trained: Path) -> None:
    kinds = ("encoder-attention", "decoder-attention", "decoder-cross")
    plots = trained / "plots"
    assert {path.name for path in plots.iterdir()} == {
        f"attention-val-{n}-{kind}.png" for n in (1, 2) for kind in kinds
    }
    answers = predict(trained, ["3 March 1975", "04.May"], attention=True)
    for number, answer in enumerate(answers, 1):
        assert answer["attention"] == [str(plots / f"attention-{number}-{kind}.png") for kind in kinds]
        for file in answer["attention"]:
            with Image.open(file) as picture:
                assert min(picture.size) > 300


@pytest.mark.req("T7")
def test_sides_are_named_by_the_tokens_and_fields_show_the_weights(trained: Path, figures: dict[str, Figure]) -> None:
    (answer,) = predict(trained, ["3 March 1975"], attention=True)
    figure = figures["attention-1-decoder-cross"]
    fields = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in fields] == [f"layer {n}, head {h}" for n in (1, 2) for h in (1, 2)]
    keys = [label.get_text() for label in fields[2].get_xticklabels()]  # at the lower edge only
    assert keys == [*"3␣March␣1975", "<end>"]
    written = [label.get_text() for label in fields[0].get_yticklabels()]
    assert "".join(written).partition("<end>")[0].startswith(answer["prediction"][:3])
    assert fields[0].images[0].get_array().shape == (len(written), len(keys))
    own = [axes for axes in figures["attention-1-decoder-attention"].axes if axes.get_title()]
    assert own[2].get_yticklabels()[0].get_text() == own[2].get_xticklabels()[0].get_text() == "<start>"
    weights = own[-1].images[0].get_array()
    assert weights[0, 0] == 1 and not weights[0, 1:].any(), "the first token can only look at itself"


def test_rows_of_an_image_and_characters_of_a_text_are_named(fast: Words, figures: dict[str, Figure]) -> None:
    sizes = ["model.d_model=8", "model.num_heads=2", "model.d_ff=8", "model.num_layers=1"]
    run(fast("model=transformer", "datamodule=digits", "callbacks=attention_maps", *sizes), verbose=False)
    axes = figures["attention-val-1-encoder-attention"].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(row) for row in range(1, 9)]
    words = ["trainer.precision=bf16-true", "callbacks=attention_maps", *sizes]
    folder = run(fast("model=transformer", "datamodule=text", *words), verbose=False).folder
    predict(folder, ["of the bo"], length=4, attention=True)
    axes = figures["attention-1-decoder-attention"].axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert "".join(names[:9]) == "of␣the␣bo" and len(names) == 12


def test_a_model_without_attention_is_refused_before_it_trains(fast: Words, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"callbacks=attention_maps: MLP has no attention; model=transformer has"):
        run(fast("model=mlp", "callbacks=attention_maps"), verbose=False)
    assert not list(tmp_path.glob("outputs/runs/*/*")), "no run is left behind"
    spec = DataSpec("regression", "vector", (3,), (1,))
    with pytest.raises(UserError, match="MLP has no attention"):
        attention_maps(MLP(spec, [2]).eval(), (torch.zeros(1, 3),))  # type: ignore[arg-type]


def test_nothing_is_computed_for_maps_when_they_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DataSpec("language_modelling", "tokens", (10,), (11,), vocabulary_size=11)
    model = Transformer(spec, d_model=8, num_heads=2, d_ff=8)
    monkeypatch.setattr("src.layers.attention.MultiHeadAttention._recorded", None)
    model(torch.zeros(1, 4, dtype=torch.int64))
