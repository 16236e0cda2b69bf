"""Transformer blocks against torch's layers with the same weights, and the paper's size."""

import pytest
import torch
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


def stack(num_layers: int, norm_first: bool, activation: str, cross: bool) -> Stack:
    torch.manual_seed(0)
    made = Stack(num_layers, D, norm_first, num_heads=H, d_ff=FF, dropout=0.1, activation=activation, cross=cross)
    return made.double().eval()


@pytest.mark.req("T2")
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_equals_torch(norm_first: bool, activation: str) -> None:
    mine = stack(2, norm_first, activation, cross=False)
    layer = nn.TransformerEncoderLayer(D, H, FF, 0.1, activation, batch_first=True, norm_first=norm_first)
    final = nn.LayerNorm(D) if norm_first else None
    theirs = nn.TransformerEncoder(layer, 2, final, enable_nested_tensor=False).double().eval()
    for a, b in zip(mine.blocks, theirs.layers, strict=True):
        copy_block(a, b)  # type: ignore[arg-type]
    x, lengths = numbers(B, T, D), torch.tensor([6, 1, 4])
    valid = torch.arange(T) < lengths[:, None]
    out = mine(x, mask=valid[:, None, None, :])
    expected = theirs(x, src_key_padding_mask=~valid)
    torch.testing.assert_close(out[valid], expected[valid], rtol=0, atol=1e-10)


@pytest.mark.req("T2")
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_equals_torch(norm_first: bool, activation: str) -> None:
    mine = stack(2, norm_first, activation, cross=True)
    layer = nn.TransformerDecoderLayer(D, H, FF, 0.1, activation, batch_first=True, norm_first=norm_first)
    theirs = nn.TransformerDecoder(layer, 2, nn.LayerNorm(D) if norm_first else None).double().eval()
    for a, b in zip(mine.blocks, theirs.layers, strict=True):
        copy_block(a, b)  # type: ignore[arg-type]
    x, memory = numbers(B, T, D), numbers(B, S, D, seed=2)
    valid = torch.arange(S) < torch.tensor([[7], [2], [5]])
    out = mine(x, causal=True, memory=memory, memory_mask=valid[:, None, None, :])
    forbidden = torch.ones(T, T).triu(1).bool()
    expected = theirs(x, memory, tgt_mask=forbidden, memory_key_padding_mask=~valid)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)


@pytest.mark.req("T6")
@pytest.mark.parametrize("norm_first", [False, True])
def test_cached_stack_equals_uncached(norm_first: bool) -> None:
    decoder = stack(3, norm_first, "relu", cross=True)
    x, memory = numbers(B, T, D), numbers(B, S, D, seed=2)
    caches = decoder.new_caches()
    parts = [decoder(x[:, i : i + 1], causal=True, memory=memory, caches=caches) for i in range(T)]
    torch.testing.assert_close(torch.cat(parts, 1), decoder(x, causal=True, memory=memory), rtol=0, atol=1e-10)


@pytest.mark.parametrize("norm_first", [False, True])
def test_training_drops_and_evaluation_does_not(norm_first: bool) -> None:
    block = Block(D, H, FF, 0.5, norm_first, "relu", cross=True).double()
    x, memory = numbers(B, T, D), numbers(B, S, D, seed=2)
    assert not torch.equal(block(x, memory=memory), block(x, memory=memory))
    block.eval()
    assert torch.equal(block(x, memory=memory), block(x, memory=memory))


@pytest.mark.req("T1")
def test_size_of_the_paper() -> None:
    """nn.Transformer of the paper's size has 44,140,544 parameters, two final norms that the paper lacks among them."""
    sizes = {"num_heads": 8, "d_ff": 2048, "dropout": 0.1, "activation": "relu"}
    with torch.device("meta"):
        mine = [Stack(6, 512, False, cross=cross, **sizes) for cross in (False, True)]
        theirs = nn.Transformer(512, 8, 6, 6, 2048, batch_first=True)
    assert sum(p.numel() for p in theirs.parameters()) == 44_140_544
    assert sum(p.numel() for stack in mine for p in stack.parameters()) == 44_140_544 - 2 * 2 * 512
