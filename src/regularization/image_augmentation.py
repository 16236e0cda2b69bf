"""Image augmentation of batches on the device with kornia (textbook, Data Augmentation)."""

import torch
from torch import Tensor, nn

from src.core.errors import UserError


class ImageAugmentation(nn.Module):
    """Random label-preserving transforms, sampled for every example from torch's generators.

    Pixels from outside the image repeat its border: images are standardised, so that zeros would be mid-grey and not the
    background. An erased rectangle is filled with zeros, which are the mean.

    Args:
        strengths: by the names of `src.config.schema.regularization.Augmentation`; conf/train.yaml describes their units.
        shape: shape of one image [C, H, W].

    Raises:
        UserError: if a policy, which changes colours, is set for images that are neither grey nor RGB, or if a crop
            could remove all of an image.
    """

    def __init__(self, strengths: dict[str, float], shape: tuple[int, ...]) -> None:
        super().__init__()
        import kornia.augmentation as K
        from kornia.augmentation import auto

        channels, height, width = shape
        policies = [name for name in ("trivial_augment", "rand_augment", "auto_augment") if name in strengths]
        if policies and channels not in (1, 3):
            raise UserError(
                f"regularization.augmentation.{policies[0]} changes colours, and images here have {channels} channels: "
                "they must be grey or RGB."
            )
        if (crop := strengths.get("crop", 0)) >= min(height, width):
            raise UserError(
                f"regularization.augmentation.crop={crop:.0f}: images here are {height}×{width}, and nothing would be "
                f"left of some. Allowed: at most {min(height, width) - 1} pixels; usual: an eighth of the side"
            )
        affine = {name: strengths[name] for name in ("rotation", "translate", "scale", "shear") if name in strengths}
        flips = {"horizontal_flip": K.RandomHorizontalFlip, "vertical_flip": K.RandomVerticalFlip}
        steps: list[nn.Module] = []
        if affine:
            scale, translate = affine.get("scale"), affine.get("translate")
            steps.append(
                K.RandomAffine(
                    degrees=affine.get("rotation", 0.0),
                    translate=(translate, translate) if translate else None,
                    scale=(1 - scale, 1 + scale) if scale else None,
                    shear=affine.get("shear"),
                    padding_mode="border",
                    p=1.0,
                )
            )
        if crop:  # "resample" crops the whole batch at once; the shifts are whole pixels
            steps.append(
                K.RandomCrop((height, width), padding=int(crop), padding_mode="replicate", cropping_mode="resample")
            )
        steps += [flip(p=strengths[name]) for name, flip in flips.items() if name in strengths]
        if (jitter := strengths.get("colour_jitter")) is not None:
            saturation, hue = (jitter, jitter / 4) if channels == 3 else (0.0, 0.0)
            steps.append(InUnitRange(K.ColorJitter(jitter, jitter, saturation, hue, p=1.0)))
        if "trivial_augment" in strengths:
            steps.append(InUnitRange(auto.TrivialAugment(), strengths["trivial_augment"], rgb=True))
        if "rand_augment" in strengths:
            steps.append(InUnitRange(auto.RandAugment(n=2, m=int(strengths["rand_augment"])), rgb=True))
        if "auto_augment" in strengths:
            steps.append(InUnitRange(auto.AutoAugment("imagenet"), strengths["auto_augment"], rgb=True))
        if "noise" in strengths:
            steps.append(K.RandomGaussianNoise(std=strengths["noise"], p=1.0))
        if "erasing" in strengths:
            steps.append(K.RandomErasing(p=strengths["erasing"]))
        self.steps = nn.Sequential(*steps)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, H, W], at least in single precision: half precision would round pixel positions."""
        with torch.autocast(images.device.type, enabled=False):
            return self.steps(images if images.itemsize >= 4 else images.float()).to(images.dtype)


class InUnitRange(nn.Module):
    """Applies a colour transform, which needs values from 0 to 1, to standardised images: each channel is scaled by its
    minimum and maximum in the batch, and scaled back afterwards.

    Args:
        transform: maps [B, C, H, W] in [0, 1] to the same.
        probability: probability to transform a batch.
        rgb: the transform needs three channels; a grey image is repeated three times.
    """

    def __init__(self, transform: nn.Module, probability: float = 1.0, rgb: bool = False) -> None:
        super().__init__()
        self.transform = transform
        self.probability = probability
        self.rgb = rgb

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C, H, W]."""
        if torch.rand(()) >= self.probability:
            return images
        darkest, brightest = images.amin((0, 2, 3), keepdim=True), images.amax((0, 2, 3), keepdim=True)
        span = torch.where(brightest > darkest, brightest - darkest, 1)
        unit = (images - darkest) / span
        if self.rgb and images.size(1) == 1:
            unit = self.transform(unit.expand(-1, 3, -1, -1)).mean(1, keepdim=True)
        else:
            unit = self.transform(unit)
        return unit * span + darkest
