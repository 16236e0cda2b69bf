"""Transformer blocks against torch's layers with the same weights, forward and backward, and the paper's size."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.layers.attention import MultiHeadAttention
from src.layers.transformer_blocks import Block, Stack

B, T, S, D, H, FF = 3, 6, 7, 16, 4, 24


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def copy_attention(mine: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.copy_(torch.cat((mine.query.weight, mine.key_value.weight)))
    theirs.in_proj_bias.copy_(torch.cat((mine.query.bias, mine.key_value.bias)))
    theirs.out_proj.load_state_dict(mine.output.state_dict())


@torch.no_grad()
def copy_block(mine: Block, theirs: nn.Module) -> None:
    """Give the weights of a block to nn.TransformerEncoderLayer or nn.TransformerDecoderLayer."""
    for parameter in mine.parameters():
        nn.init.normal_(parameter, std=0.3)
    copy_attention(mine.attention, theirs.self_attn)  # type: ignore[arg-type]
    norms = [mine.attention_norm, mine.feed_forward_norm]
    if mine.cross is not None and mine.cross_norm is not None:
        copy_attention(mine.cross, theirs.multihead_attn)  # type: ignore[arg-type]
        norms.insert(1, mine.cross_norm)
    for number, norm in enumerate(norms, 1):
        getattr(theirs, f"norm{number}").load_state_dict(norm.state_dict())
    theirs.linear1.load_state_dict(mine.feed_forward[0].state_dict())  # type: ignore[operator, union-attr]
    theirs.linear2.load_state_dict(mine.feed_forward[3].state_dict())  # type: ignore[operator, union-attr]


def gradients(layer: nn.Module) -> dict[str, Tensor]:
    """Return the gradients of our block or of torch's layer, by torch's parameter names."""
    found = {name: parameter.grad for name, parameter in layer.named_parameters()}
    if isinstance(layer, Block):
        names = {"attention": "self_attn", "cross": "multihead_attn", "feed_forward.0": "linear1"}
        names |= {"feed_forward.3": "linear2", "attention_norm": "norm1"}
        names |= {"cross_norm": "norm2", "feed_forward_norm": "norm2" if layer.cross is None else "norm3"}
        for kind in ("weight", "bias"):
            for name in ("attention", "cross") if layer.cross is not None else ("attention",):
                parts = [found.pop(f"{name}.{part}.{kind}") for part in ("query", "key_value")]
                found[f"{name}.in_proj_{kind}"] = torch.cat(parts)
                found[f"{name}.out_proj.{kind}"] = found.pop(f"{name}.output.{kind}")
        found = {
            f"{names[name.rpartition('.')[0].removesuffix('.out_proj')]}{parameter_suffix(name)}": g
            for name, g in found.items()
        }
    assert all(gradient is not None for gradient in found.values())
    return found  # type: ignore[return-value]


def parameter_suffix(name: str) -> str:
    return f"{'.out_proj' if '.out_proj.' in name else ''}.{name.rpartition('.')[2]}"


def assert_same(
    mine: Stack, theirs: nn.Module, outputs: tuple[Tensor, Tensor], inputs: tuple[list[Tensor], list[Tensor]]
) -> None:
    """Compare outputs, and all gradients of a loss that weights each output differently."""
    tolerance = 1e-12 if outputs[0].dtype == torch.float64 else 1e-6
    for output, tensors in zip(outputs, inputs, strict=True):
        weights = numbers(*output.shape, seed=9).to(output.dtype)
        (F.mse_loss(output, weights)).backward()
        assert all(x.grad is not None for x in tensors)
    pairs = [(outputs[0], outputs[1])]
    pairs += [(a.grad, b.grad) for a, b in zip(*inputs, strict=True)]  # type: ignore[misc]
    for a, b in zip(mine.blocks, theirs.layers, strict=True):  # type: ignore[arg-type]
        ours, torchs = gradients(a), gradients(b)
        assert ours.keys() == torchs.keys()
        pairs += [(ours[name], torchs[name]) for name in ours]
    for ours, torchs in pairs:  # type: ignore[assignment]
        scale = float(torchs.detach().abs().max())  # type: ignore[attr-defined]
        torch.testing.assert_close(ours, torchs, rtol=0, atol=tolerance * max(scale, 1.0))


def leaf_copies(*tensors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    return tuple([x.clone().requires_grad_() for x in tensors] for _ in range(2))  # type: ignore[return-value]


DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def make_stack(num_layers: int, norm_first: bool, activation: str, cross: bool) -> Stack:
    torch.manual_seed(0)
    stack = Stack(num_layers, D, norm_first, num_heads=H, d_ff=FF, dropout=0.1, activation=activation, cross=cross)
    return stack.double().eval()


@pytest.mark.req("T2")
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
@DTYPES
def test_encoder_equals_torch(norm_first: bool, activation: str, dtype: torch.dtype) -> None:
    mine = make_stack(2, norm_first, activation, cross=False)
    layer = nn.TransformerEncoderLayer(D, H, FF, 0.1, activation, batch_first=True, norm_first=norm_first)
    final = nn.LayerNorm(D) if norm_first else None
    theirs = nn.TransformerEncoder(layer, 2, final, enable_nested_tensor=False).double().eval()
    for a, b in zip(mine.blocks, theirs.layers, strict=True):
        copy_block(a, b)  # type: ignore[arg-type]
    mine, theirs = mine.to(dtype), theirs.to(dtype)
    (x,), (y,) = inputs = leaf_copies(numbers(B, T, D).to(dtype))
    valid = torch.arange(T) < torch.tensor([[6], [1], [4]])
    outputs = mine(x, mask=valid[:, None, None, :])[valid], theirs(y, src_key_padding_mask=~valid)[valid]
    assert_same(mine, theirs, outputs, inputs)


@pytest.mark.req("T2")
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
@DTYPES
def test_decoder_equals_torch(norm_first: bool, activation: str, dtype: torch.dtype) -> None:
    mine = make_stack(2, norm_first, activation, cross=True)
    layer = nn.TransformerDecoderLayer(D, H, FF, 0.1, activation, batch_first=True, norm_first=norm_first)
    theirs = nn.TransformerDecoder(layer, 2, nn.LayerNorm(D) if norm_first else None).double().eval()
    for a, b in zip(mine.blocks, theirs.layers, strict=True):
        copy_block(a, b)  # type: ignore[arg-type]
    mine, theirs = mine.to(dtype), theirs.to(dtype)
    (x, memory), (y, their_memory) = inputs = leaf_copies(
        numbers(B, T, D).to(dtype), numbers(B, S, D, seed=2).to(dtype)
    )
    valid = torch.arange(S) < torch.tensor([[7], [2], [5]])
    out = mine(x, causal=True, memory=memory, memory_mask=valid[:, None, None, :])
    forbidden = torch.ones(T, T).triu(1).bool()
    expected = theirs(y, their_memory, tgt_mask=forbidden, memory_key_padding_mask=~valid)
    assert_same(mine, theirs, (out, expected), inputs)


@pytest.mark.req("T6")
@pytest.mark.parametrize("norm_first", [False, True])
def test_cached_stack_equals_uncached(norm_first: bool) -> None:
    decoder = make_stack(3, norm_first, "relu", cross=True)
    x, memory = numbers(B, T, D), numbers(B, S, D, seed=2)
    caches = decoder.new_caches()
    parts = [decoder(x[:, i : i + 1], causal=True, memory=memory, caches=caches) for i in range(T)]
    torch.testing.assert_close(torch.cat(parts, 1), decoder(x, causal=True, memory=memory), rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm_first", [False, True])
def test_dropout_is_active_in_training_only(norm_first: bool) -> None:
    block = Block(D, H, FF, 0.5, norm_first, "relu", cross=True).double()
    x, memory = numbers(B, T, D), numbers(B, S, D, seed=2)
    assert not torch.equal(block(x, memory=memory), block(x, memory=memory))
    block.eval()
    assert torch.equal(block(x, memory=memory), block(x, memory=memory))


@pytest.mark.req("T4")
def test_dropout_inside_and_after_the_feed_forward_network() -> None:
    """With W_2 the identity, each output is max(0, xW_1 + b_1)/(1 - p)², or 0 if one of the two dropouts dropped it."""
    torch.manual_seed(0)
    p, tokens = 0.2, 4000
    block = Block(D, H, D, p, True, "relu", cross=False).double()
    with torch.no_grad():
        block.attention.output.weight.zero_()
        block.attention.output.bias.zero_()
        block.feed_forward[3].weight.copy_(torch.eye(D))
        block.feed_forward[3].bias.zero_()
        x = numbers(1, tokens, D)
        first = block.feed_forward[0]
        hidden = (block.feed_forward_norm(x) @ first.weight.T + first.bias).clamp(min=0)
        added = block(x) - x
        torch.testing.assert_close(block.eval()(x) - x, hidden, rtol=0, atol=1e-12)
    active = hidden > 1e-3
    nonzero = active & (added.abs() > 1e-9)
    torch.testing.assert_close(added[nonzero], hidden[nonzero] / (1 - p) ** 2, rtol=1e-9, atol=1e-12)
    count, share = int(active.sum()), (1 - p) ** 2
    assert abs(int(nonzero.sum()) - share * count) < 5 * (count * share * (1 - share)) ** 0.5


@pytest.mark.req("T1")
def test_parameter_count_of_the_papers_stacks() -> None:
    """nn.Transformer of the paper's size has 44,140,544 parameters, including two final norms that the paper does not have."""
    sizes = {"num_heads": 8, "d_ff": 2048, "dropout": 0.1, "activation": "relu"}
    with torch.device("meta"):
        mine = [Stack(6, 512, False, cross=cross, **sizes) for cross in (False, True)]
        theirs = nn.Transformer(512, 8, 6, 6, 2048, batch_first=True)
    assert sum(p.numel() for p in theirs.parameters()) == 44_140_544
    assert sum(p.numel() for stack in mine for p in stack.parameters()) == 44_140_544 - 2 * 2 * 512
