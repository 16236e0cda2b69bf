"""Recurrent networks against the textbook's equations; padding, directions and states."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.config.compose import compose
from src.config.validate import check
from src.core.batches import LanguageBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.models.recurrent import GRU, LSTM, RNN, Recurrent
from src.run_store.run_folder import RunFolder
from src.training.experiment import Experiment, build
from src.training.inference import evaluate_split, load
from src.training.run import run

MODELS = [RNN, LSTM, GRU]
CELLS = ["torch", "textbook"]
SERIES = DataSpec("forecasting", "sequence", (9, 3), (4, 2))
TOKENS = DataSpec("classification", "tokens", (9,), (5,), vocabulary_size=11, padding_id=0)
TEXT = DataSpec("language_modelling", "tokens", (9,), (11,), vocabulary_size=11)


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make_model(kind: type[Recurrent], spec: DataSpec, **settings: Any) -> Recurrent:
    torch.manual_seed(0)
    model = kind(spec, **({"hidden_size": 6, "embedding_size": 4} | settings)).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def gates(model: Recurrent, x: Tensor, h: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return W x_t + b and W h_{t-1} + b of every gate, in torch's order."""
    core: Any = model.recurrent
    count = core.weight_hh_l0.size(0) // core.hidden_size
    inputs = (core.weight_ih_l0 @ x + core.bias_ih_l0).chunk(count)
    states = (core.weight_hh_l0 @ h + core.bias_hh_l0).chunk(count)
    return list(inputs), list(states)


def textbook_state(model: Recurrent, x: Tensor) -> Tensor:
    """Return h_T of one sequence [T, F], by the textbook's equations (RNN Mathematics)."""
    h = c = torch.zeros(model.recurrent.hidden_size, dtype=torch.float64)
    for step in x:
        a, b = gates(model, step, h)
        if isinstance(model, RNN):
            h = torch.tanh(a[0] + b[0])
        elif isinstance(model, LSTM):
            i, f, o = (torch.sigmoid(a[n] + b[n]) for n in (0, 1, 3))
            c = f * c + i * torch.tanh(a[2] + b[2])
            h = o * torch.tanh(c)
        else:  # torch's form: the reset gate after the product, and z swapped (erratum E7)
            r, z = (torch.sigmoid(a[n] + b[n]) for n in (0, 1))
            h = (1 - z) * torch.tanh(a[2] + r * b[2]) + z * h
    return h


@pytest.mark.req("R1")
@pytest.mark.parametrize("kind", MODELS)
def test_forward_is_the_formula(kind: type[Recurrent]) -> None:
    model, x = make_model(kind, SERIES), numbers(3, 9, 3)
    states = torch.stack([textbook_state(model, sequence) for sequence in x])
    expected = (states @ model.output.weight.T + model.output.bias).view(3, 4, 2)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


@pytest.mark.req("R2")
@pytest.mark.parametrize("initial_state", ["zero", "learned"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("spec", [SERIES, TOKENS], ids=["series", "tokens"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", MODELS)
def test_padding_never_changes_a_result(
    kind: type[Recurrent], cell: str, spec: DataSpec, num_layers: int, bidirectional: bool, initial_state: str
) -> None:
    """A sequence alone gives the same result as in a batch of longer ones, with arbitrary values after its end."""
    settings = {"num_layers": num_layers, "bidirectional": bidirectional, "initial_state": initial_state}
    model = make_model(kind, spec, cell=cell, **settings)
    lengths = torch.tensor([4, 9, 1, 7])
    x = numbers(4, 9, 3) if spec is SERIES else torch.randint(1, 11, (4, 9))
    together = model(x, lengths)
    alone = torch.cat([model(x[i : i + 1, :length]) for i, length in enumerate(lengths.tolist())])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    if spec is TOKENS:
        padded = x.masked_fill(torch.arange(9) >= lengths[:, None], 0)
        torch.testing.assert_close(model(padded), alone, rtol=0, atol=1e-12)


@pytest.mark.req("R2")
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", MODELS)
def test_each_direction_predicts_from_its_own_last_state(kind: type[Recurrent], cell: str, num_layers: int) -> None:
    """The backward direction reads the reversed sequence with its own weights; each layer reads both directions."""
    model, x = make_model(kind, SERIES, cell=cell, num_layers=num_layers, bidirectional=True), numbers(3, 9, 3)
    states = x
    for layer in range(num_layers):
        directions = []
        for number, suffix in enumerate(("", "_reverse")):
            one: Any = make_model(
                kind, DataSpec("forecasting", "sequence", (9, states.size(2)), (4, 2)), cell=cell
            ).recurrent
            if cell == "textbook":
                one.cells[0] = model.recurrent.cells[2 * layer + number]
            else:
                for name in list(dict(one.named_parameters())):
                    setattr(one, name, getattr(model.recurrent, name.replace("l0", f"l{layer}") + suffix))
            directions.append(one)
        backwards = directions[1](states.flip(1))[0]
        states = torch.cat((directions[0](states)[0], backwards.flip(1)), -1)
    ends = torch.cat((states[:, -1, :6], states[:, 0, 6:]), -1)  # where each direction has read the whole sequence
    expected = (ends @ model.output.weight.T + model.output.bias).view(3, 4, 2)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


@pytest.mark.req("R2")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_learned_initial_state_is_the_state_before_the_first_step(kind: type[Recurrent], cell: str) -> None:
    """Reading a whole sequence equals reading its second part from the state after its first part."""
    model, x = make_model(kind, SERIES, cell=cell, initial_state="learned"), numbers(1, 9, 3)
    assert model.start is not None
    _, state = model.read(model.embed(x[:, :4]))
    expected = model(x)
    states = state if isinstance(state, tuple) else (state,)
    for parameter, value in zip(model.start, states, strict=True):
        parameter.data = value.detach()
    torch.testing.assert_close(model(x[:, 4:]), expected, rtol=0, atol=1e-12)
    model(x).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.start)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_learned_initial_state_starts_at_zero(kind: type[Recurrent], cell: str) -> None:
    torch.manual_seed(0)
    zero = kind(SERIES, cell=cell)
    torch.manual_seed(0)
    learned = kind(SERIES, cell=cell, initial_state="learned")
    x = torch.randn(2, 9, 3)
    assert torch.equal(zero(x), learned(x))


def test_an_image_is_read_row_by_row() -> None:
    model = make_model(LSTM, DataSpec("classification", "image", (2, 5, 4), (3,)))
    images = numbers(2, 2, 5, 4)
    rows = make_model(LSTM, DataSpec("classification", "sequence", (5, 8), (3,)))
    rows.load_state_dict(model.state_dict())
    sequences = torch.stack([torch.stack([image[:, row].reshape(8) for row in range(5)]) for image in images])
    torch.testing.assert_close(model(images), rows(sequences), rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", MODELS)
def test_language_model_depends_on_past_tokens_only(kind: type[Recurrent], cell: str) -> None:
    model = make_model(kind, TEXT, cell=cell, num_layers=2)
    tokens = torch.randint(0, 11, (2, 9))
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-12)
    assert not torch.isclose(before[:, 5:], after[:, 5:]).all(-1).any()


def test_a_bidirectional_language_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.bidirectional=true"):
        GRU(TEXT, bidirectional=True)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", MODELS)
def test_generation_equals_reading_the_whole_sequence_again(kind: type[Recurrent], cell: str) -> None:
    """The state that generation carries gives the same tokens as reading the whole sequence for each token."""
    model = make_model(kind, TEXT, cell=cell, num_layers=2, initial_state="learned")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=2.0)  # large enough that the tokens vary
    prompt = torch.randint(0, 11, (6, 4))
    tokens = prompt
    for _ in range(15):
        tokens = torch.cat((tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)), 1)
    generated = model.generate(prompt, max_new_tokens=15)
    assert len(generated.unique()) > 1
    assert torch.equal(generated, tokens[:, 4:])
    assert model.generate(prompt, max_new_tokens=0).shape == (6, 0)
    torch.manual_seed(1)
    assert not torch.equal(model.generate(prompt, max_new_tokens=15, temperature=5.0), generated)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", MODELS)
def test_dropout_is_active_in_training_only(kind: type[Recurrent], cell: str) -> None:
    model, x = make_model(kind, SERIES, cell=cell, num_layers=2, dropout=0.5), numbers(2, 9, 3)
    rate = model.recurrent.dropout
    assert (rate.p if isinstance(rate, nn.Dropout) else rate) == 0.5
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.req("G2")
@pytest.mark.parametrize("spec", [SERIES, TEXT], ids=["last state", "every step"])
@pytest.mark.parametrize("kind", MODELS)
def test_single_layer_has_dropout_before_the_output(kind: type[Recurrent], spec: DataSpec) -> None:
    model = make_model(kind, spec, dropout=0.5).train()
    x = numbers(2, 9, 3) if spec is SERIES else torch.randint(0, 11, (2, 9))
    assert not torch.equal(model(x), model(x))


@pytest.fixture
def build_stateful(tmp_path: Path) -> Callable[..., Experiment]:
    """Return a function that builds a stateful run on a text of 8 streams with windows of 5 tokens."""
    file = tmp_path / "text.txt"
    file.write_text("".join("abcdefg"[(i * i + i // 3) % 7] for i in range(1500)))

    def build_experiment(*overrides: str) -> Experiment:
        small = ["trainer.precision=64-true", "optimizer=sgd", "logger=none", "callbacks=none", "trainer=smoke"]
        text = ["datamodule=text", f"datamodule.path={file}", "datamodule.context=5", "datamodule.batch_size=8"]
        splits = ["datamodule.val_fraction=0.2", "datamodule.test_fraction=0.2", "datamodule.stateful=true"]
        return build(check(compose([*small, *text, *splits, f"paths.outputs={tmp_path}/outputs", *overrides])))

    return build_experiment


def streams(experiment: Experiment, split: str) -> list[Tensor]:
    """Return the tokens of every stream, each as one sequence."""
    batches = [batch.tokens for batch in experiment.datamodule.loader(split)]
    rows = [[tokens[b] for tokens in batches if b < len(tokens)] for b in range(len(batches[0]))]
    return [torch.cat([windows[0][:1], *(window[1:] for window in windows)]) for windows in rows]


@pytest.mark.req("R3")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_stateful_loss_equals_the_loss_of_one_long_sequence(
    build_stateful: Callable[..., Experiment], kind: str, cell: str
) -> None:
    """Evaluated twice: the second evaluation starts from the initial state and gives the same loss."""
    overrides = [
        f"model.cell={cell}",
        "model.num_layers=2",
        "model.initial_state=learned",
        "trainer.limit_test_batches=1.0",
    ]
    experiment = build_stateful(f"model={kind}", *overrides)
    model = experiment.model.double()
    assert isinstance(model, Recurrent) and model.start is not None
    for parameter in model.start:
        nn.init.normal_(parameter)
    model.eval()
    with torch.no_grad():
        wholes = [
            nn.functional.cross_entropy(model(stream[None, :-1])[0], stream[1:], reduction="sum")
            for stream in streams(experiment, "test")
        ]
    expected = sum(wholes) / sum(len(stream) - 1 for stream in streams(experiment, "test"))
    for _ in range(2):
        tested = experiment.trainer.test(model, datamodule=experiment.datamodule, verbose=False)
        assert tested[0]["test/loss"] == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.req("R3")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_gradients_stop_at_window_boundaries(kind: type[Recurrent], cell: str) -> None:
    """The gradient of the second window is that of a sequence with the detached last state of the first as initial state."""
    carried = make_model(kind, replace(TEXT, stateful=True), cell=cell, num_layers=2, initial_state="learned")
    plain = make_model(kind, TEXT, cell=cell, num_layers=2, initial_state="learned")
    tokens = torch.randint(0, 11, (3, 9), generator=torch.Generator().manual_seed(0))
    carried.forward_batch(LanguageBatch(tokens[:, :5]), "train")
    windowed = carried.forward_batch(LanguageBatch(tokens[:, 4:]), "train")
    whole = plain(tokens[:, :-1])
    torch.testing.assert_close(windowed, whole[:, 4:], rtol=0, atol=1e-12)
    with torch.no_grad():
        _, border = plain.read(plain.embed(tokens[:, :4]))
    fixed = plain.output(plain.read(plain.embed(tokens[:, 4:-1]), state=border)[0])
    names = [name for name, _ in plain.named_parameters()]
    gradients = [
        dict(
            zip(names, torch.autograd.grad(outputs.square().sum(), model.parameters(), allow_unused=True), strict=True)
        )
        for model, outputs in ((carried, windowed), (plain, fixed), (plain, whole[:, 4:]))
    ]
    for name in names:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], rtol=0, atol=1e-12)
    assert gradients[0]["start.0"] is None and gradients[2]["start.0"].any()
    carried.on_train_epoch_start()
    torch.testing.assert_close(carried.forward_batch(LanguageBatch(tokens), "train"), whole, rtol=0, atol=1e-12)
    carried.forward_batch(LanguageBatch(tokens[:2, 4:]), "val")  # another split starts from the initial state
    smaller = carried.forward_batch(LanguageBatch(tokens[:2, 4:]), "val")
    assert smaller.shape[0] == 2
    carried.on_validation_epoch_start()  # so does another validation
    torch.testing.assert_close(carried.forward_batch(LanguageBatch(tokens), "val"), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=transformer"], r"model=transformer has no hidden state. Models with one: rnn, lstm, gru\."),
        (["model=gru", "model.bidirectional=true"], r"model\.bidirectional=true also reads from the end"),
    ],
)
def test_model_without_state_support_is_rejected(overrides: list[str], message: str) -> None:
    text = ["datamodule=text", "datamodule.path=pyproject.toml", "datamodule.stateful=true"]
    with pytest.raises(UserError, match=message):
        check(compose([*overrides, *text]))


@pytest.mark.slow
@pytest.mark.req("R1", "R3")
@pytest.mark.parametrize("cell", CELLS)
def test_resumed_stateful_run_is_exact(fast: Callable[..., list[str]], cell: str) -> None:
    """It equals an uninterrupted run, and its checkpoint alone rebuilds the model, with either cell."""
    overrides = fast("model=lstm", f"model.cell={cell}", "datamodule=text", "datamodule.stateful=true")
    overrides = [*overrides, "regularization.dropout=0.2", "trainer.limit_train_batches=1.0"]
    whole = run([*overrides, "trainer.max_epochs=2"], verbose=False)
    half = run(overrides, verbose=False)
    resumed = run([f"resume={half.folder}", "trainer.max_epochs=2"], verbose=False)
    assert resumed.metrics == whole.metrics
    first, second = (
        [row["train/loss"] for row in RunFolder.open(result.folder).metrics() if "train/loss" in row]
        for result in (whole, resumed)
    )
    assert first == second and len(first) == 2
    assert evaluate_split(load(whole.folder), "test")["test/loss"] == pytest.approx(
        whole.metrics["test/loss"], rel=1e-6
    )
