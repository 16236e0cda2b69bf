"""Embedding of inputs as sequences of vectors."""

import torch

from src.core.data_spec import DataSpec
from src.layers.input_embedding import InputEmbedding, image_rows

IMAGE = DataSpec("classification", "image", (3, 5, 4), (2,))
SERIES = DataSpec("forecasting", "sequence", (7, 2), (3, 2))
TOKENS = DataSpec("classification", "tokens", (7,), (2,), vocabulary_size=9, padding_id=0)


def test_an_image_is_read_row_by_row() -> None:
    x = torch.randn(2, 3, 5, 4)
    rows = image_rows(x)
    assert rows.shape == (2, 5, 12)
    for row in range(5):
        assert torch.equal(rows[1, row], torch.cat([x[1, channel, row] for channel in range(3)]))


def test_numbers_are_unchanged_or_projected() -> None:
    x = torch.randn(2, 7, 2)
    plain = InputEmbedding(SERIES, 16, project=False)
    assert plain.size == 2
    assert torch.equal(plain(x), x)
    projected = InputEmbedding(SERIES, 16, project=True)
    weight, bias = projected.layer.parameters()
    assert projected.size == 16
    torch.testing.assert_close(projected(x), x @ weight.T + bias)
    assert InputEmbedding(IMAGE, 16, project=True)(torch.randn(2, 3, 5, 4)).shape == (2, 5, 16)


def test_tokens_are_looked_up_and_padding_is_not_trained() -> None:
    embedded = InputEmbedding(TOKENS, 4, project=False)
    x = torch.tensor([[3, 8, 0, 0, 0, 0, 0]])
    out = embedded(x)
    assert isinstance(embedded.layer, torch.nn.Embedding)
    assert torch.equal(out[0, 1], embedded.layer.weight[8])
    out.sum().backward()
    assert embedded.layer.weight.grad is not None
    assert embedded.layer.weight.grad.any(1).nonzero().flatten().tolist() == [3, 8]
