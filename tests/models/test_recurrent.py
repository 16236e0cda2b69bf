"""Recurrent networks against the textbook's equations, and what they promise about padding, direction and state."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.errors import UserError
from src.models.recurrent import GRU, LSTM, RNN, Recurrent
from src.spec import DataSpec

MODELS = [RNN, LSTM, GRU]
SERIES = DataSpec("forecasting", "sequence", (9, 3), (4, 2))
TOKENS = DataSpec("classification", "tokens", (9,), (5,), vocabulary_size=11, padding_id=0)
TEXT = DataSpec("language_modelling", "tokens", (9,), (11,), vocabulary_size=11)


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def made(kind: type[Recurrent], spec: DataSpec, **settings: Any) -> Recurrent:
    torch.manual_seed(0)
    model = kind(spec, **({"hidden_size": 6, "embedding_size": 4} | settings)).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def gates(model: Recurrent, x: Tensor, h: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """W x_t + b and W h_{t-1} + b of every gate, in torch's order."""
    core: Any = model.recurrent
    count = core.weight_hh_l0.size(0) // core.hidden_size
    inputs = (core.weight_ih_l0 @ x + core.bias_ih_l0).chunk(count)
    states = (core.weight_hh_l0 @ h + core.bias_hh_l0).chunk(count)
    return list(inputs), list(states)


def textbook_state(model: Recurrent, x: Tensor) -> Tensor:
    """h_T of one sequence [T, F], by the textbook's equations (RNN Mathematics)."""
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


@pytest.mark.parametrize("kind", MODELS)
def test_answer_is_the_formula(kind: type[Recurrent]) -> None:
    model, x = made(kind, SERIES), numbers(3, 9, 3)
    states = torch.stack([textbook_state(model, sequence) for sequence in x])
    expected = (states @ model.output.weight.T + model.output.bias).view(3, 4, 2)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


@pytest.mark.req("R2")
@pytest.mark.parametrize("initial_state", ["zero", "learned"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("spec", [SERIES, TOKENS], ids=["series", "tokens"])
@pytest.mark.parametrize("kind", MODELS)
def test_padding_never_changes_a_result(
    kind: type[Recurrent], spec: DataSpec, num_layers: int, bidirectional: bool, initial_state: str
) -> None:
    """A sequence alone, and the same one among longer ones with anything behind its end."""
    model = made(kind, spec, num_layers=num_layers, bidirectional=bidirectional, initial_state=initial_state)
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
@pytest.mark.parametrize("kind", MODELS)
def test_both_directions_answer_from_their_own_end(kind: type[Recurrent], num_layers: int) -> None:
    """Reading backwards is reading the reversed sequence with the other weights; each layer reads both directions."""
    model, x = made(kind, SERIES, num_layers=num_layers, bidirectional=True), numbers(3, 9, 3)
    states = x
    for layer in range(num_layers):
        directions = []
        for suffix in ("", "_reverse"):
            one = kind.core(states.size(2), 6, batch_first=True).double()
            for name, parameter in one.named_parameters():
                parameter.data = getattr(model.recurrent, name.replace("l0", f"l{layer}") + suffix)
            directions.append(one)
        backwards = directions[1](states.flip(1))[0]
        states = torch.cat((directions[0](states)[0], backwards.flip(1)), -1)
    ends = torch.cat((states[:, -1, :6], states[:, 0, 6:]), -1)  # where each direction has read everything
    expected = (ends @ model.output.weight.T + model.output.bias).view(3, 4, 2)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


@pytest.mark.req("R2")
@pytest.mark.parametrize("kind", MODELS)
def test_a_learned_initial_state_is_the_state_before_the_first_step(kind: type[Recurrent]) -> None:
    """After reading A it stands where a network starts whose initial state is the one that A leaves behind."""
    model, x = made(kind, SERIES, initial_state="learned"), numbers(1, 9, 3)
    assert model.start is not None
    _, state = model._run(x[:, :4])
    expected = model(x)
    states = state if isinstance(state, tuple) else (state,)
    for parameter, value in zip(model.start, states, strict=True):
        parameter.data = value.detach()
    torch.testing.assert_close(model(x[:, 4:]), expected, rtol=0, atol=1e-12)
    model(x).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.start)


@pytest.mark.parametrize("kind", MODELS)
def test_a_learned_initial_state_starts_at_zero(kind: type[Recurrent]) -> None:
    torch.manual_seed(0)
    zero = kind(SERIES)
    torch.manual_seed(0)
    learned = kind(SERIES, initial_state="learned")
    x = torch.randn(2, 9, 3)
    assert torch.equal(zero(x), learned(x))


def test_an_image_is_read_row_by_row() -> None:
    model = made(LSTM, DataSpec("classification", "image", (2, 5, 4), (3,)))
    images = numbers(2, 2, 5, 4)
    rows = made(LSTM, DataSpec("classification", "sequence", (5, 8), (3,)))
    rows.load_state_dict(model.state_dict())
    sequences = torch.stack([torch.stack([image[:, row].reshape(8) for row in range(5)]) for image in images])
    torch.testing.assert_close(model(images), rows(sequences), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", MODELS)
def test_a_language_model_sees_the_past_only(kind: type[Recurrent]) -> None:
    model = made(kind, TEXT, num_layers=2)
    tokens = torch.randint(0, 11, (2, 9))
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-12)
    assert not torch.isclose(before[:, 5:], after[:, 5:]).all(-1).any()


def test_a_bidirectional_language_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.bidirectional=true"):
        GRU(TEXT, bidirectional=True)


@pytest.mark.parametrize("kind", MODELS)
def test_generation_carries_the_state(kind: type[Recurrent]) -> None:
    """The same tokens as reading everything anew for each of them."""
    model = made(kind, TEXT, num_layers=2, initial_state="learned")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=2.0)  # wild enough that the tokens vary
    prompt = torch.randint(0, 11, (6, 4))
    tokens = prompt
    for _ in range(15):
        tokens = torch.cat((tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)), 1)
    generated = model.generate(prompt, max_new_tokens=15)
    assert len(generated.unique()) > 2
    assert torch.equal(generated, tokens[:, 4:])
    assert model.generate(prompt, max_new_tokens=0).shape == (6, 0)
    torch.manual_seed(1)
    assert not torch.equal(model.generate(prompt, max_new_tokens=15, temperature=5.0), generated)


@pytest.mark.parametrize("kind", MODELS)
def test_dropout_is_for_training(kind: type[Recurrent]) -> None:
    model, x = made(kind, SERIES, num_layers=2, dropout=0.5), numbers(2, 9, 3)
    assert model.recurrent.dropout == 0.5
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))
