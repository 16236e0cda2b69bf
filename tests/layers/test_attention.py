"""Multi-head attention against the formula and against torch, with masks, caches and recorded weights."""

import math
from contextlib import nullcontext

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from src.layers.attention import KeyValueCache, MultiHeadAttention, record_attention_weights

B, T, S, D, H = 2, 5, 7, 12, 3


@pytest.fixture
def attention() -> MultiHeadAttention:
    torch.manual_seed(0)
    module = MultiHeadAttention(D, H).double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_formula(module: MultiHeadAttention, x: Tensor, memory: Tensor, allowed: Tensor) -> Tensor:
    """Concat(head_1, …, head_h) W^O with e_ij = q_i·k_j/√d_k + M_ij, query by query (textbook, Multi-Head Attention).

    allowed: [B, T, S], True where M_ij = 0.
    """
    module.requires_grad_(False)
    q = x @ module.query.weight.T + module.query.bias
    k, v = (memory @ module.key_value.weight.T + module.key_value.bias).split(D, -1)
    d_k = D // H
    out = torch.zeros_like(q)
    for b in range(x.size(0)):
        for head in range(H):
            columns = slice(head * d_k, (head + 1) * d_k)
            for i in range(x.size(1)):
                keys = [j for j in range(memory.size(1)) if allowed[b, i, j]]
                scores = [math.exp(float(q[b, i, columns] @ k[b, j, columns]) / math.sqrt(d_k)) for j in keys]
                for j, score in zip(keys, scores, strict=True):
                    out[b, i, columns] += score / sum(scores) * v[b, j, columns]
    return out @ module.output.weight.T + module.output.bias


@pytest.mark.req("T2")
@pytest.mark.parametrize("kind", ["self", "causal", "cross", "cross with padding"])
def test_attention_is_the_formula(attention: MultiHeadAttention, kind: str) -> None:
    x = numbers(B, T, D)
    memory = numbers(B, S, D, seed=2) if kind.startswith("cross") else x
    allowed = torch.ones(B, T, memory.size(1), dtype=torch.bool)
    mask = None
    if kind == "causal":
        allowed = torch.tensor([[[j <= i for j in range(T)] for i in range(T)]] * B)  # erratum E2
    if kind == "cross with padding":
        mask = (torch.arange(S) < torch.tensor([[4], [6]]))[:, None, None, :]
        allowed = mask[:, 0].expand(B, T, S)
    out = attention(x, memory if kind.startswith("cross") else None, mask=mask, causal=kind == "causal")
    torch.testing.assert_close(out, by_formula(attention, x, memory, allowed), rtol=0, atol=1e-12)


@pytest.mark.req("T2")
def test_attention_equals_torch(attention: MultiHeadAttention) -> None:
    theirs = nn.MultiheadAttention(D, H, batch_first=True).double().eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat((attention.query.weight, attention.key_value.weight)))
        theirs.in_proj_bias.copy_(torch.cat((attention.query.bias, attention.key_value.bias)))
        theirs.out_proj.load_state_dict(attention.output.state_dict())
    x, memory = numbers(B, T, D), numbers(B, S, D, seed=2)
    padding = torch.arange(S) >= torch.tensor([[5], [2]])
    mine = attention(x, memory, mask=~padding[:, None, None, :])
    expected = theirs(x, memory, memory, key_padding_mask=padding, need_weights=False)[0]
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)


def test_initial_weights_have_the_distribution_of_torch() -> None:
    """Kolmogorov-Smirnov test against torch's weights, equal bounds, and zero biases."""
    torch.manual_seed(0)
    width = 64
    mine, theirs = MultiHeadAttention(width, 4), nn.MultiheadAttention(width, 4)
    pairs = [*zip((mine.query.weight, *mine.key_value.weight.chunk(2)), theirs.in_proj_weight.chunk(3), strict=True)]
    for own, other in [*pairs, (mine.output.weight, theirs.out_proj.weight)]:
        assert stats.ks_2samp(own.detach().flatten(), other.detach().flatten()).pvalue > 1e-3
        assert float(own.detach().abs().max()) == pytest.approx(float(other.detach().abs().max()), rel=0.01)
    for layer in (mine.query, mine.key_value, mine.output):
        assert not layer.bias.any()
    assert not theirs.in_proj_bias.any() and not theirs.out_proj.bias.any()


@pytest.mark.req("T2")
def test_causal_attention_attends_to_earlier_positions_only(attention: MultiHeadAttention) -> None:
    """Query i depends on key j exactly where j ≤ i (erratum E2)."""
    x = numbers(1, T, D)
    jacobian = torch.autograd.functional.jacobian(lambda y: attention(y, causal=True).sum((0, 2)), x)
    depends = jacobian[:, 0].abs().sum(-1) > 0
    assert torch.equal(depends, torch.ones(T, T).tril().bool())


@pytest.mark.req("T6")
@pytest.mark.parametrize("prompt", [1, 3])
def test_cached_attention_equals_uncached(attention: MultiHeadAttention, prompt: int) -> None:
    x = numbers(B, T, D)
    cache = KeyValueCache()
    parts = [attention(x[:, :prompt], causal=True, cache=cache)]
    parts += [attention(x[:, i : i + 1], causal=True, cache=cache) for i in range(prompt, T)]
    torch.testing.assert_close(torch.cat(parts, 1), attention(x, causal=True), rtol=0, atol=1e-12)


def test_keys_of_a_memory_are_computed_once(attention: MultiHeadAttention) -> None:
    calls: list[int] = []
    attention.key_value.register_forward_hook(lambda *_: calls.append(1))
    x, memory, cache = numbers(B, T, D), numbers(B, S, D, seed=2), KeyValueCache()
    parts = [attention(x[:, i : i + 1], memory, cache=cache) for i in range(T)]
    assert len(calls) == 1
    torch.testing.assert_close(torch.cat(parts, 1), attention(x, memory), rtol=0, atol=1e-12)


@pytest.mark.req("T4")
def test_dropout_drops_single_attention_weights() -> None:
    """If the values are the unit vectors, the output is the matrix of weights: each is 0 or α/(1 - p)."""
    torch.manual_seed(0)
    p, steps = 0.3, 12
    attention = MultiHeadAttention(steps, 1, dropout=p).double()
    x = numbers(1, steps, steps)
    with torch.no_grad():
        attention.key_value.weight[steps:] = torch.linalg.inv(x[0]).T
        attention.output.weight.copy_(torch.eye(steps))
        attention.output.bias.zero_()
        weights = attention.eval()(x)[0]
        attention.train()
        torch.testing.assert_close(weights.sum(1), torch.ones(steps).double(), rtol=0, atol=1e-9)
        num_nonzero = 0
        for _ in range(100):
            dropped = attention(x)[0]
            nonzero = dropped.abs() > 1e-9
            torch.testing.assert_close(dropped[nonzero], weights[nonzero] / (1 - p), rtol=1e-6, atol=1e-9)
            num_nonzero += int(nonzero.sum())
    count = 100 * steps * steps
    assert abs(num_nonzero - (1 - p) * count) < 5 * math.sqrt(count * p * (1 - p))


@pytest.mark.req("T7")
@pytest.mark.parametrize("kind", ["self", "causal", "cross with padding"])
def test_recorded_weights_reproduce_the_output(attention: MultiHeadAttention, kind: str) -> None:
    """Rows sum to one, masked entries are zero, and weights @ V, concatenated and projected, is the layer's output."""
    x, memory = numbers(B, T, D), numbers(B, S, D, seed=2)
    mask = (torch.arange(S) < torch.tensor([[4], [6]]))[:, None, None, :] if kind.startswith("cross") else None
    inputs = (x, memory, mask) if kind.startswith("cross") else (x,)
    expected = attention(*inputs, causal=kind == "causal")
    with record_attention_weights(attention) as layers:
        assert layers == {"": attention}
        out = attention(*inputs, causal=kind == "causal")
        weights = attention.weights
    assert weights is not None and weights.shape == (B, H, T, S if mask is not None else T)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, H, T).double(), rtol=0, atol=1e-12)
    if mask is not None:
        assert not weights[~mask.expand_as(weights)].any()
    if kind == "causal":
        assert not weights[..., torch.ones(T, T).triu(1).bool()].any()
    values = attention.key_value(memory if mask is not None else x)[..., D:]
    heads = torch.stack(values.split(D // H, -1), 1)
    joined = torch.cat((weights @ heads).unbind(1), -1)
    torch.testing.assert_close(attention.output(joined), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    assert attention.weights is None and not attention.recording, "no weights are stored afterwards"


@pytest.mark.req("T7")
def test_recorded_weights_include_dropout() -> None:
    """In training each recorded weight is 0 or α/(1 - p), and the output is computed with these."""
    torch.manual_seed(0)
    p = 0.4
    attention = MultiHeadAttention(D, H, dropout=p).double()
    x = numbers(B, T, D)
    with record_attention_weights(attention):
        attention.eval()(x)
        whole = attention.weights
        out = attention.train()(x)
        weights = attention.weights
    assert whole is not None and weights is not None
    nonzero = weights != 0
    assert 0.3 < nonzero.double().mean() < 0.9
    torch.testing.assert_close(weights[nonzero], whole[nonzero] / (1 - p), rtol=0, atol=1e-12)
    values = torch.stack(attention.key_value(x)[..., D:].split(D // H, -1), 1)
    joined = torch.cat((weights @ values).unbind(1), -1)
    torch.testing.assert_close(out, attention.output(joined), rtol=0, atol=1e-12)


@pytest.mark.req("T2", "T7")
def test_causal_attention_with_mask_and_fully_masked_queries(attention: MultiHeadAttention) -> None:
    """With padding at the start, the first queries attend to nothing and return the output's bias, recorded or not."""
    x = numbers(B, T, D)
    mask = (torch.arange(T) >= torch.tensor([[0], [2]]))[:, None, None, :]
    allowed = mask[:, 0] & torch.ones(T, T).tril().bool()
    expected = by_formula(attention, x, x, allowed)
    with record_attention_weights(attention):
        recorded = attention(x, mask=mask, causal=True)
        weights = attention.weights
    assert weights is not None
    assert not weights[~allowed[:, None].expand_as(weights)].any()
    torch.testing.assert_close(weights.sum(-1), allowed.any(-1)[:, None].expand(B, H, T).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(recorded, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(attention(x, mask=mask & allowed[:, None]), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(recorded[1, :2], attention.output.bias.expand(2, D), rtol=0, atol=1e-12)
    gradients = []
    for recording in (True, False):
        y = x.clone().requires_grad_()
        with record_attention_weights(attention) if recording else nullcontext():
            attention(y, mask=mask & allowed[:, None]).square().sum().backward()
        gradients.append(y.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


def test_dropout_of_attention_weights_preserves_the_mean() -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention(D, H, dropout=0.3).double()
    x = numbers(1, T, D).expand(20_000, T, D)
    dropped = attention(x)
    expected = attention.eval()(x[:1])
    error = dropped.std(0) / math.sqrt(len(x))
    assert (error > 0).all()
    assert ((dropped.mean(0) - expected[0]).abs() < 5 * error).all()
