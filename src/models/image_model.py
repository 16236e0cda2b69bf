"""What the architectures of convolutions share."""

import torch

from src.models.base import Model


class ImageModel(Model):
    """A model of images [B, C, H, W]. Where it trains on a GPU its weights lie channels last, as the kernels there want."""

    tasks = ("classification", "binary_classification", "regression")
    inputs = ("image",)

    def on_fit_start(self) -> None:
        """By the device that Lightning chose, and not by those that there are."""
        if self.device.type == "cuda":
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
