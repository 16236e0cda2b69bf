"""Schemas of the config group `model`."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationInfo, model_validator

from src.config.schema.base import (
    Activation,
    Count,
    Initialization,
    Layers,
    NonNegative,
    Option,
    Pixels,
    Probability,
    T,
    Width,
    Widths,
)

VECTORS = ("classification", "binary_classification", "regression", "forecasting")
IMAGES = ("classification", "binary_classification", "regression")


class ModelOption(Option):
    """An architecture, the tasks that it supports and the kinds of input that it accepts."""

    tasks: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[tuple[str, ...]] = ()
    supports_stateful: ClassVar[bool] = False
    built_in: ClassVar[tuple[str, ...]] = ()
    """Knobs of regularization that the architecture always includes, whatever their values."""


class MLP(ModelOption):
    tasks = VECTORS
    inputs = ("vector", "image", "sequence")
    hidden_sizes: Widths
    activation: Activation
    initialization: Initialization
    batch_norm: bool
    dropout: Probability
    drop_connect: Probability
    series: Literal["together", "independent"] = "together"
    subtract_last: bool = False


class MlpScratch(ModelOption):
    tasks = VECTORS
    inputs = ("vector", "image", "sequence")
    hidden_sizes: Widths
    activation: Activation
    initialization: Initialization


def _check_one_per_block(setting: Any, info: ValidationInfo) -> Any:
    blocks = len(info.data.get("channels", ()))
    if isinstance(setting, list) and blocks and len(setting) != blocks:
        raise ValueError(
            f"a list needs one entry per block: model.channels defines {blocks} blocks, and the list has {len(setting)} entries"
        )
    return setting


PerBlock = Annotated[
    Annotated[T, Tag("one")] | Annotated[list[T], Tag("list")],
    Discriminator(lambda setting: "list" if isinstance(setting, list) else "one"),
    AfterValidator(_check_one_per_block),
]
"""One value for all blocks, or a list with one value per block."""


class CNN(ModelOption):
    tasks = IMAGES
    inputs = ("image",)
    channels: Annotated[Widths, Field(min_length=1)]
    kernel_size: PerBlock[Pixels]
    stride: PerBlock[Pixels]
    padding: PerBlock[Annotated[Count, Field(le=255)] | Literal["same"]]
    pool: PerBlock[Literal["max", "average", "none"]]
    pool_size: PerBlock[Pixels]
    pool_stride: PerBlock[Pixels] | None
    hidden_sizes: Widths
    activation: Activation
    initialization: Initialization
    batch_norm: bool
    dropout: Probability
    spatial_dropout: Probability
    drop_connect: Probability


class ResNet(ModelOption):
    tasks = IMAGES
    inputs = ("image",)
    built_in = ("batch_norm",)
    blocks_per_stage: Layers
    widths: Annotated[Widths, Field(min_length=1)]
    activation: Activation
    dropout: Probability
    stochastic_depth: Probability
    checkpoint_activations: bool = False


class Recurrent(ModelOption):
    tasks = (*VECTORS, "tagging", "language_modelling")
    inputs = ("image", "sequence", "tokens")
    supports_stateful = True
    cell: Literal["torch", "textbook"]
    hidden_size: Width
    num_layers: Layers
    bidirectional: bool
    initial_state: Literal["zero", "learned"]
    embedding_size: Width
    dropout: Probability
    drop_connect: Probability


class Transformer(ModelOption):
    tasks = (*VECTORS, "language_modelling", "translation")
    inputs = ("image", "sequence", "tokens")
    d_model: Width
    num_heads: Width
    num_layers: Layers
    d_ff: Width | None
    norm_first: bool
    activation: Activation
    positions: Literal["sinusoidal", "learned"]
    beams: Annotated[int, Field(gt=0, le=256)]
    length_penalty: NonNegative
    dropout: Probability
    stochastic_depth: Probability
    checkpoint_activations: bool = False

    @model_validator(mode="after")
    def _check_heads_divide_width(self) -> "Transformer":
        if self.d_model % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide d_model={self.d_model}")
        return self
