"""Types and base classes that the schemas of all config groups share.

Whoever opens a recorded run builds what its config describes. So sizes have an upper bound that no real experiment reaches,
and what follows from several of them is bounded by `src.core.resources.refuse_too_much`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
Workers = Annotated[int, Field(ge=0, le=64)]
"""Processes that read data."""
Examples = Annotated[int, Field(gt=0, le=10**8)]
"""Examples of a batch or a split."""
Length = Annotated[int, Field(gt=0, le=10**6)]
"""Steps of a sequence."""
Width = Annotated[int, Field(gt=0, le=2**20)]
"""Numbers in a layer, or tokens in a vocabulary."""
MOST_LAYERS = 1000
Layers = Annotated[int, Field(gt=0, le=MOST_LAYERS)]
Widths = Annotated[list[Width], Field(max_length=MOST_LAYERS)]
"""The width of each layer."""
Pixels = Annotated[int, Field(gt=0, le=255)]
"""Sides of a convolution or of pooling, and their steps."""
NonNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Decay = Annotated[float, Field(ge=0, lt=1)]
UserPath = Annotated[Path, Field(strict=False), AfterValidator(Path.absolute)]
"""A path that a user typed; recorded so that it is found from any working directory."""
Activation = Literal["tanh", "relu", "sigmoid", "gelu", "silu", "leaky_relu", "elu"]
Initialization = Literal["torch", "textbook", "glorot", "he"]


class Section(BaseModel):
    """A part of the config: no unknown keys, no silent conversions from text, nothing changed after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True, allow_inf_nan=False)


class Option(Section):
    """A choice within a config group: the class that it makes and the class's arguments."""

    target: str | None = Field(alias="_target_")
    name: str

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the class."""
        return {key: getattr(self, key) for key in self.__class__.model_fields if key not in ("target", "name")}


T = TypeVar("T")


class Entry(Section):
    """One callback or logger: its class, and the arguments of the class."""

    target: str = Field(alias="_target_")


class Unnamed(Entry, extra="allow"):
    """An entry whose class is missing, so that nothing is known of its keys."""
