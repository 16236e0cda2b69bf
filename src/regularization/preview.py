"""What augmentation and mixing make of training images, to be looked at before training."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from src.config.schema import Config
from src.errors import UserError
from src.experiment import build_data
from src.regularization.build import batch_transform
from src.regularization.mixing import Mixing
from src.spec import DataSpec

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

EXAMPLES, DRAWS = 6, 7


def augmentation_picture(config: Config) -> "Figure":
    """Draw some training images, each beside what several passes of augmentation and mixing make of it, with its label.

    A whole training batch is changed, as in training, of which the picture shows the first examples. Brightness has one
    scale for all images: what is darker or brighter than every image of the batch is shown as the darkest or brightest.

    Args:
        config: a checked config; its seed draws the changes.

    Raises:
        UserError: if the config changes no images.
    """
    data = build_data(config)
    data.prepare_data()
    data.setup()
    spec = data.spec
    if spec.inputs != "image":
        raise UserError(
            f"preview augmentation: it shows images, and one input of {config.datamodule.name} is a {spec.inputs}."
        )
    transform = batch_transform(config, spec)
    if transform is None:
        raise UserError(
            "preview augmentation: nothing changes training images here. "
            "Try regularization=augmentation, trivial_augment, mixup, cutmix or a list of them."
        )
    batch = next(iter(data.loader("train", shuffle=True)))
    originals, labels = batch.inputs[0], batch.targets
    rows = min(EXAMPLES, len(originals))
    columns = [(originals, [_label(spec, y) for y in labels[:rows]])]
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        for _ in range(DRAWS):
            changed, mixing = transform(batch)
            texts = [_label(spec, y) for y in changed.targets[:rows]]
            if mixing is not None:
                texts = [_mixed(spec, labels, mixing, row) for row in range(rows)]
            columns.append((changed.inputs[0], texts))

    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.3 * len(columns), 1.5 * rows), layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    darkest, brightest = originals.amin((0, 2, 3)), originals.amax((0, 2, 3))
    for column, (images, texts) in enumerate(columns):
        for row, axes in enumerate(grid[:, column]):
            axes.set_axis_off()
            axes.imshow(_shown(images[row], darkest, brightest), cmap="gray", vmin=0, vmax=1)
            axes.set_title(texts[row], fontsize=8)
    knobs = config.regularization
    alphas = {"mixup_alpha": knobs.mixup_alpha, "cutmix_alpha": knobs.cutmix_alpha}
    changes = knobs.augmentation.chosen() | {name: alpha for name, alpha in alphas.items() if alpha}
    listed = ", ".join(f"{name}={strength:g}" for name, strength in changes.items())
    figure.suptitle(f"{config.datamodule.name}: training images (left) and {DRAWS} draws of {listed}")
    return figure


def _shown(image: Tensor, darkest: Tensor, brightest: Tensor) -> "np.ndarray[Any, Any]":
    """Return [H, W] or [H, W, 3] from 0 to 1; of images that are neither grey nor RGB, the mean of their channels."""
    span = torch.where(brightest > darkest, brightest - darkest, 1)
    unit = ((image.permute(1, 2, 0) - darkest) / span).clamp(0, 1)
    return (unit if unit.size(2) == 3 else unit.mean(2)).numpy()


def _label(spec: DataSpec, target: Tensor) -> str:
    if spec.task == "classification":
        return spec.class_names[int(target)] if spec.class_names else str(int(target))
    if spec.task == "binary_classification":
        return spec.class_names[int(target)] if spec.class_names else f"{target:g}"
    return ", ".join(f"{value:.3g}" for value in target.flatten().tolist())


def _mixed(spec: DataSpec, labels: Tensor, mixing: Mixing, row: int) -> str:
    own, partner = _label(spec, labels[row]), _label(spec, labels[mixing.partner[row]])
    return f"{mixing.share:.2f} × {own} + {1 - mixing.share:.2f} × {partner}" if own != partner else own
