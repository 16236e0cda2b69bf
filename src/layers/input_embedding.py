"""Embedding of inputs as sequences of vectors."""

from torch import Tensor, nn

from src.core.data_spec import DataSpec


def image_rows(x: Tensor) -> Tensor:
    """Read an image [B, C, H, W] row by row: [B, H, C·W]."""
    return x.permute(0, 2, 1, 3).flatten(2)


def sequence_features(spec: DataSpec) -> int:
    """Return the number of features of one time step, for inputs that are not tokens."""
    if spec.inputs == "image":
        channels, _, width = spec.input_shape
        return channels * width
    return spec.input_shape[-1]


class InputEmbedding(nn.Module):
    """Maps tokens, windows of a series or images to vectors [B, T, size].

    Tokens are looked up in an embedding; numbers are unchanged, or projected if `project` is set.

    Args:
        spec: the data.
        size: width of a token's embedding and of the projection.
        project: project numbers to `size`.
    """

    def __init__(self, spec: DataSpec, size: int, project: bool) -> None:
        super().__init__()
        self.kind = spec.inputs
        self.size = size
        self.layer: nn.Module
        if spec.inputs == "tokens":
            assert spec.vocabulary_size is not None
            self.layer = nn.Embedding(spec.vocabulary_size, size, padding_idx=spec.padding_id)
        elif project:
            self.layer = nn.Linear(sequence_features(spec), size)
        else:
            self.layer = nn.Identity()
            self.size = sequence_features(spec)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(image_rows(x) if self.kind == "image" else x)
