"""The transformer against nn.Transformer's stacks; masks, padding and decoding."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.config.compose import compose
from src.config.validate import check
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.layers.attention import MultiHeadAttention
from src.layers.positional_encoding import sinusoidal
from src.layers.transformer_blocks import Block, Stack
from src.models.transformer import Transformer

PADDING, START, END = 0, 1, 2
TRANSLATION = DataSpec(
    "translation",
    "tokens",
    (9,),
    (12,),
    vocabulary_size=15,
    padding_id=PADDING,
    start_id=START,
    end_id=END,
    target_length=8,
)
TEXT = DataSpec("language_modelling", "tokens", (10,), (11,), vocabulary_size=11)
SERIES = DataSpec("forecasting", "sequence", (9, 3), (4, 2))
TOKENS = DataSpec("classification", "tokens", (9,), (5,), vocabulary_size=15, padding_id=PADDING)
NORMS = pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
POSITIONS = pytest.mark.parametrize("positions", ["sinusoidal", "learned"])


def make_model(spec: DataSpec, **settings: Any) -> Transformer:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "num_heads": 4, "d_ff": 24, "num_layers": 2}
    model = Transformer(spec, **(sizes | settings)).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sources(lengths: Tensor, width: int) -> Tensor:
    tokens = torch.randint(3, 15, (len(lengths), width), generator=torch.Generator().manual_seed(2))
    return tokens.masked_fill(torch.arange(width) >= lengths[:, None], PADDING)


# ---- the whole model against torch's -----------------------------------------------------------------------------


@torch.no_grad()
def copy_block(mine: Block, theirs: Any) -> Any:
    def attention(a: MultiHeadAttention, b: nn.MultiheadAttention) -> None:
        b.in_proj_weight.copy_(torch.cat((a.query.weight, a.key_value.weight)))
        b.in_proj_bias.copy_(torch.cat((a.query.bias, a.key_value.bias)))
        b.out_proj.load_state_dict(a.output.state_dict())

    theirs.double().eval()
    attention(mine.attention, theirs.self_attn)
    norms = [mine.attention_norm, mine.feed_forward_norm]
    if mine.cross is not None and mine.cross_norm is not None:
        attention(mine.cross, theirs.multihead_attn)
        norms.insert(1, mine.cross_norm)
    for number, norm in enumerate(norms, 1):
        getattr(theirs, f"norm{number}").load_state_dict(norm.state_dict())
    theirs.linear1.load_state_dict(mine.feed_forward[0].state_dict())  # type: ignore[operator, union-attr]
    theirs.linear2.load_state_dict(mine.feed_forward[3].state_dict())  # type: ignore[operator, union-attr]
    return theirs


@pytest.mark.req("T1", "T2", "T5")
@NORMS
def test_encoder_decoder_equals_torch(norm_first: bool) -> None:
    model = make_model(TRANSLATION, norm_first=norm_first)
    assert model.encoder is not None and model.decoder is not None
    source, target = sources(torch.tensor([9, 3, 6]), 9), torch.randint(3, 12, (3, 7))
    hidden = source == PADDING
    future = torch.ones(7, 7).triu(1).bool()
    sizes = {"d_model": 16, "nhead": 4, "dim_feedforward": 24, "batch_first": True, "norm_first": norm_first}
    memory = F.embedding(source, model.embed.layer.weight) * math.sqrt(16) + sinusoidal(9, 16)  # type: ignore[arg-type]
    for block in model.encoder.blocks:
        layer = copy_block(block, nn.TransformerEncoderLayer(**sizes))  # type: ignore[arg-type]
        memory = layer(memory, src_key_padding_mask=hidden)
    memory = model.encoder.norm(memory)
    x = F.embedding(target, model.target_embed.weight) * math.sqrt(16) + sinusoidal(7, 16)
    for block in model.decoder.blocks:
        layer = copy_block(block, nn.TransformerDecoderLayer(**sizes))  # type: ignore[arg-type]
        x = layer(x, memory, tgt_mask=future, memory_key_padding_mask=hidden)
    expected = model.decoder.norm(x) @ model.target_embed.weight.T + model.output.bias
    torch.testing.assert_close(model(source, target), expected, rtol=0, atol=1e-10)


@pytest.mark.req("T4")
@pytest.mark.parametrize("spec", [TRANSLATION, TEXT, TOKENS, SERIES], ids=lambda spec: f"{spec.task} of {spec.inputs}")
def test_dropout_is_applied_to_the_sum_of_embeddings_and_positions(spec: DataSpec) -> None:
    """In both stacks (5.4): each input of a stack in training is 0 or the sum/(1 - p)."""
    p = 0.3
    model = make_model(spec, dropout=p)
    stack_inputs: dict[str, list[Tensor]] = {}
    for name in ("encoder", "decoder"):
        if (stack := getattr(model, name)) is not None:
            stack.register_forward_pre_hook(
                lambda _, args, name=name: stack_inputs.setdefault(name, []).append(args[0])
            )
    x = numbers(40, *spec.input_shape) if spec is SERIES else torch.randint(3, 11, (40, spec.input_shape[0]))
    inputs = (x, torch.randint(3, 11, (40, 8))) if spec is TRANSLATION else (x,)
    model.eval()(*inputs)
    model.train()(*inputs)
    assert set(stack_inputs) == {"encoder", "decoder"} if spec is TRANSLATION else len(stack_inputs) == 1
    for whole, dropped in stack_inputs.values():
        nonzero = dropped != 0
        torch.testing.assert_close(dropped[nonzero], whole[nonzero] / (1 - p), rtol=0, atol=1e-12)
        count = whole.numel()
        assert abs(int(nonzero.sum()) - (1 - p) * count) < 5 * (count * p * (1 - p)) ** 0.5


@pytest.mark.req("T5")
@NORMS
def test_decoder_without_memory_equals_a_masked_encoder(norm_first: bool) -> None:
    model = make_model(TEXT, norm_first=norm_first)
    assert model.encoder is None and model.decoder is not None
    tokens = torch.randint(0, 11, (3, 10))
    future = torch.ones(10, 10).triu(1).bool()
    x = F.embedding(tokens, model.embed.layer.weight) * math.sqrt(16) + sinusoidal(10, 16)  # type: ignore[arg-type]
    for block in model.decoder.blocks:
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=norm_first)
        x = copy_block(block, layer)(x, src_mask=future)  # type: ignore[arg-type]
    expected = model.output(model.decoder.norm(x))
    torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-10)


def expected_parameters(n: int, d: int, d_ff: int, source: int, target: int) -> int:
    """Attention is four matrices d × d, the feed-forward network two d × d_ff, each with biases, and a LayerNorm has 2d;
    the output layer shares the target's embedding and adds a bias.
    """
    attention, feed_forward, norm = 4 * (d * d + d), 2 * d * d_ff + d_ff + d, 2 * d
    encoder = n * (attention + feed_forward + 2 * norm)
    decoder = n * (2 * attention + feed_forward + 3 * norm)
    return encoder + decoder + (source + target) * d + target


@pytest.mark.req("T1")
def test_parameters_of_the_papers_base_model() -> None:
    config = check(compose(["model=transformer_base"])).model
    sizes = (config.num_layers, config.d_model, config.num_heads, config.d_ff, config.dropout)  # type: ignore[attr-defined]
    assert sizes == (6, 512, 8, 2048, 0.1) and not config.norm_first  # type: ignore[attr-defined]
    for source, target in ((37_000, 37_000), (84, 15)):
        facts = {"output_shape": [target], "vocabulary_size": source}
        with torch.device("meta"):
            model = Transformer(DataSpec.from_plain(TRANSLATION.to_plain() | facts), **config.arguments())
        parameters = sum(p.numel() for p in model.parameters())
        assert parameters == expected_parameters(6, 512, 2048, source, target)
    assert expected_parameters(6, 512, 2048, 0, 0) == 44_138_496


@pytest.mark.req("T1")
def test_default_sizes_are_small() -> None:
    config = check(compose(["model=transformer"])).model
    with torch.device("meta"):
        model = Transformer(TRANSLATION, **config.arguments())
        four = Transformer(TRANSLATION, **(config.arguments() | {"d_ff": None}))
    parameters = [sum(p.numel() for p in transformer.parameters()) for transformer in (model, four)]
    assert parameters == [expected_parameters(2, 128, d_ff, 15, 12) for d_ff in (256, 512)]


# ---- masks -------------------------------------------------------------------------------------------------------


@pytest.mark.req("T2")
@pytest.mark.parametrize("spec", [TEXT, TRANSLATION], ids=["text", "translation"])
def test_logits_depend_on_earlier_tokens_only(spec: DataSpec) -> None:
    """Position t predicts token t + 1, and may attend to the tokens up to t (erratum E2)."""
    model = make_model(spec)
    tokens = torch.randint(3, 11, (2, 7))
    source = (sources(torch.tensor([9, 4]), 9),) if spec is TRANSLATION else ()
    changed = tokens.clone()
    changed[:, 4:] = 3 + (changed[:, 4:] - 2) % 8
    before, after = model(*source, tokens), model(*source, changed)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=1e-12)
    assert not torch.isclose(before[:, 4:], after[:, 4:]).all(-1).any()


@pytest.mark.req("T2")
@NORMS
@POSITIONS
def test_padding_of_a_source_never_changes_a_result(norm_first: bool, positions: str) -> None:
    model = make_model(TRANSLATION, norm_first=norm_first, positions=positions)
    lengths = torch.tensor([9, 1, 5])
    source, target = sources(lengths, 9), torch.randint(3, 12, (3, 6))
    together = model(source, target)
    alone = [model(source[i : i + 1, :length], target[i : i + 1]) for i, length in enumerate(lengths.tolist())]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)
    generated = model.generate(source)
    for i, length in enumerate(lengths.tolist()):
        separate = model.generate(source[i : i + 1, :length])[0]
        assert torch.equal(generated[i, : len(separate)], separate)


@pytest.mark.req("T2")
@NORMS
@POSITIONS
@pytest.mark.parametrize("spec", [SERIES, TOKENS], ids=["series", "tokens"])
def test_padding_after_the_end_never_changes_a_result(spec: DataSpec, norm_first: bool, positions: str) -> None:
    model = make_model(spec, norm_first=norm_first, positions=positions)
    lengths = torch.tensor([4, 9, 1])
    x = 1e3 * numbers(3, 9, 3) if spec is SERIES else torch.randint(1, 15, (3, 9))
    together = model(x, lengths)
    alone = torch.cat([model(x[i : i + 1, :length]) for i, length in enumerate(lengths.tolist())])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    if spec is TOKENS:
        padded = x.masked_fill(torch.arange(9) >= lengths[:, None], PADDING)
        torch.testing.assert_close(model(padded), alone, rtol=0, atol=1e-12)


def test_an_image_is_read_row_by_row() -> None:
    model = make_model(DataSpec("classification", "image", (2, 5, 4), (3,)))
    rows = make_model(DataSpec("classification", "sequence", (5, 8), (3,)))
    rows.load_state_dict(model.state_dict())
    images = numbers(2, 2, 5, 4)
    sequences = torch.stack([torch.stack([image[:, row].reshape(8) for row in range(5)]) for image in images])
    torch.testing.assert_close(model(images), rows(sequences), rtol=0, atol=1e-12)


# ---- decoding ----------------------------------------------------------------------------------------------------


@pytest.mark.req("T6")
@NORMS
@POSITIONS
def test_cached_translation_equals_uncached(norm_first: bool, positions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(TRANSLATION, norm_first=norm_first, positions=positions)
    source, target = sources(torch.tensor([9, 1, 5, 7]), 9), torch.randint(3, 12, (4, 7))
    memory, mask = model._encode(source)
    assert model.decoder is not None
    caches = model.decoder.new_caches()
    steps = [model._decode(target[:, t : t + 1], memory, mask, caches, t) for t in range(7)]
    logits = model(source, target)
    torch.testing.assert_close(torch.cat(steps, 1), logits, rtol=1e-12, atol=1e-12 * float(logits.detach().abs().max()))
    for choice in ({"temperature": 0.0}, {"temperature": 1.0}, {"beams": 3}, {"beams": 5, "length_penalty": 1.5}):
        torch.manual_seed(1)
        cached = model.generate(source, **choice)  # type: ignore[arg-type]
        with monkeypatch.context() as patch:
            patch.setattr(Stack, "new_caches", lambda _: None)
            torch.manual_seed(1)
            assert torch.equal(model.generate(source, **choice), cached)  # type: ignore[arg-type]


@pytest.mark.req("T6")
@NORMS
@POSITIONS
def test_generated_text_equals_reading_the_whole_text_for_each_token(
    norm_first: bool, positions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the context of 10 tokens, the last 10 tokens are used."""
    model = make_model(TEXT, norm_first=norm_first, positions=positions)
    prompt = torch.randint(0, 11, (5, 4))
    tokens = prompt
    for _ in range(14):
        tokens = torch.cat((tokens, model(tokens[:, -10:])[:, -1].argmax(-1, keepdim=True)), 1)
    assert len(tokens.unique()) > 3
    assert torch.equal(model.generate(prompt, max_new_tokens=14), tokens[:, 4:])
    searched = model.generate(prompt, max_new_tokens=14, beams=3)
    assert searched.shape == (5, 14)
    assert model.generate(prompt, max_new_tokens=0).shape == (5, 0)
    monkeypatch.setattr(Stack, "new_caches", lambda _: None)
    assert torch.equal(model.generate(prompt, max_new_tokens=14), tokens[:, 4:])
    assert torch.equal(model.generate(prompt, max_new_tokens=14, beams=3), searched)


@pytest.mark.req("T6")
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_beam_search_finds_the_most_likely_of_all_translations(length_penalty: float) -> None:
    """Three letters and the end, at most four tokens: 1 + 3 + 9 + 27 translations, each scored by one forward pass."""
    small = TRANSLATION.to_plain() | {"output_shape": [6], "target_length": 5}
    model = make_model(DataSpec.from_plain(small))
    source = sources(torch.tensor([9, 4, 7, 2, 5]), 9)
    letters = [(3, 4, 5)] * 3
    candidates = [(*tokens, END) for n in range(4) for tokens in itertools.product(*letters[:n])]
    chosen = set()
    for _ in range(6):
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.4)
        model.output.bias.data[END] -= 4  # otherwise the empty translation is always the best
        scores = []
        for candidate in candidates:
            logits = model(source, torch.tensor([[START, *candidate[:-1]]]).expand(5, -1))
            logits[:, :, [PADDING, START]] = -math.inf  # never generated
            tokens = torch.tensor(candidate).expand(5, -1).unsqueeze(2)
            score = logits.log_softmax(-1).gather(2, tokens).sum((1, 2))
            scores.append(score / ((5 + len(candidate)) / 6) ** length_penalty)
        best = torch.stack(scores, 1).argmax(1).tolist()
        found = model.generate(source, beams=27, length_penalty=length_penalty)
        assert [tuple(t for t in row if t != PADDING) for row in found.tolist()] == [candidates[i] for i in best]
        chosen.update(best)
    assert len(chosen) >= (3 if length_penalty else 1), "without a penalty the empty translation is the best one here"
    model.beams, model.length_penalty = 27, length_penalty
    assert torch.equal(model.generate(source), found), "the model's own settings are the default"


@pytest.mark.parametrize("use_cache", [True, False])
def test_padding_follows_the_end_token(use_cache: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not use_cache:
        monkeypatch.setattr(Stack, "new_caches", lambda _: None)
    model = make_model(TRANSLATION)
    torch.manual_seed(3)
    generated = model.generate(sources(torch.full((200,), 9), 9), temperature=3.0)
    assert generated.shape == (200, 7)  # at most the longest target, without its start token
    ended = 0
    for row in generated.tolist():
        if END in row[:-1]:
            ended += 1
            assert set(row[row.index(END) + 1 :]) == {PADDING}
    assert 20 < ended < 180


def test_decoding_stops_when_all_have_ended_or_enough_is_generated() -> None:
    model, source = make_model(TRANSLATION), sources(torch.tensor([9, 4]), 9)
    assert model.generate(source, max_new_tokens=3).shape[1] <= 3
    model.output.bias.data[END] = 1e6
    assert model.generate(source).tolist() == [[END], [END]]
    model.output.bias.data[END] = -1e6
    assert model.generate(source).shape == model.generate(source, max_new_tokens=7).shape == (2, 7)
    with pytest.raises(UserError, match=r"a translation of 8 tokens .*: this model has learned at most 7"):
        model.generate(source, max_new_tokens=8)


@pytest.mark.req("T5")
@NORMS
def test_a_translation_is_learned_and_decoded(norm_first: bool) -> None:
    """Reversing digits: training with shifted targets is consistent with decoding."""
    torch.manual_seed(0)
    digits = torch.randint(3, 12, (64, 5))
    ends = torch.full((64, 1), END)
    target = torch.cat((torch.full((64, 1), START), digits.flip(1), ends), 1)
    model = Transformer(TRANSLATION, 32, 4, 1, 64, norm_first, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(120):
        optimizer.zero_grad()
        F.cross_entropy(model(digits, target[:, :-1]).flatten(0, 1), target[:, 1:].flatten()).backward()
        optimizer.step()
    assert (model.eval().generate(digits) == target[:, 1:]).all(1).float().mean() > 0.95


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.num_heads=3 does not divide model\.d_model=16"):
        Transformer(TEXT, d_model=16, num_heads=3)
