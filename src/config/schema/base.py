"""Types and base classes of the schemas of all config groups.

A command that opens a recorded run builds the model and data that its config describes. Therefore sizes have an upper bound
that no real experiment reaches, and `src.core.resources.check_memory` bounds what follows from several sizes.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
Workers = Annotated[int, Field(ge=0, le=64)]
"""Number of worker processes that load data."""
Examples = Annotated[int, Field(gt=0, le=10**8)]
"""Number of examples of a batch or a split."""
Length = Annotated[int, Field(gt=0, le=10**6)]
"""Number of steps of a sequence."""
Width = Annotated[int, Field(gt=0, le=2**20)]
"""Number of units of a layer, or of tokens of a vocabulary."""
MAX_LAYERS = 1000
Layers = Annotated[int, Field(gt=0, le=MAX_LAYERS)]
Widths = Annotated[list[Width], Field(max_length=MAX_LAYERS)]
"""The width of each layer."""
Pixels = Annotated[int, Field(gt=0, le=255)]
"""Kernel size or stride of a convolution or pooling layer."""
NonNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Decay = Annotated[float, Field(ge=0, lt=1)]
UserPath = Annotated[Path, Field(strict=False), AfterValidator(Path.absolute)]
"""A path of the user; recorded as an absolute path, so that it is valid in any working directory."""
Activation = Literal["tanh", "relu", "sigmoid", "gelu", "silu", "leaky_relu", "elu"]
Initialization = Literal["torch", "textbook", "glorot", "he"]


class Section(BaseModel):
    """A section of the config: unknown keys are errors, text is not converted to numbers, and instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True, allow_inf_nan=False)


class Option(Section):
    """An option of a config group: a class and its arguments."""

    target: str | None = Field(alias="_target_")
    name: str

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the class."""
        return {key: getattr(self, key) for key in self.__class__.model_fields if key not in ("target", "name")}


T = TypeVar("T")


class Entry(Section):
    """An entry of the callbacks or loggers: a class and its arguments."""

    target: str = Field(alias="_target_")


class EntryWithoutClass(Entry, extra="allow"):
    """An entry without ``_target_``, whose keys cannot be checked."""
