"""Base class of the convolutional architectures."""

import torch

from src.models.base import Model


class ImageModel(Model):
    """A model of images [B, C, H, W]. On a GPU its weights use the channels-last memory format, which is faster there."""

    tasks = ("classification", "binary_classification", "regression")
    inputs = ("image",)

    def on_fit_start(self) -> None:
        """Convert the weights to channels last if Lightning chose a GPU."""
        if self.device.type == "cuda":
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
