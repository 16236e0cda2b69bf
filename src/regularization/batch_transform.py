"""Augmentation and mixing of training batches before the forward pass."""

from collections.abc import Callable

import torch
from torch import Tensor

from src.config.schema.run import Config
from src.core.batches import Batch, LabelledBatch
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.regularization.mixup_cutmix import Mixing, cutmix, mixup
from src.tasks.registry import TASKS


def batch_transform(config: Config, spec: DataSpec) -> Callable[[Batch], tuple[Batch, Mixing | None]] | None:
    """Return the augmentation and mixing of training batches, or None if none is configured.

    With both alphas above 0, each batch is mixed by either mixup or CutMix, each with probability one half.

    Raises:
        UserError: if the inputs cannot be mixed or augmented, which may only be known after they are loaded.
    """
    knobs = config.regularization
    strengths = knobs.augmentation.enabled()
    methods = [(method, alpha) for method, alpha in ((mixup, knobs.mixup_alpha), (cutmix, knobs.cutmix_alpha)) if alpha]
    if not strengths and not methods:
        return None
    if (strengths or knobs.cutmix_alpha) and spec.inputs != "image":
        name = "augmentation" if strengths else "cutmix_alpha"
        raise UserError(f"regularization.{name} works on images, and one input here is a {spec.inputs}.")
    if spec.inputs == "tokens":
        raise UserError("regularization.mixup_alpha mixes numbers, and the inputs here are tokens.")
    augment: Callable[[Tensor], Tensor] | None = None
    if strengths:
        from src.regularization.image_augmentation import ImageAugmentation

        augment = ImageAugmentation(strengths, spec.input_shape)
    mixed_part = TASKS[spec.task].mixing

    def transform(batch: Batch) -> tuple[Batch, Mixing | None]:
        if not isinstance(batch, LabelledBatch):
            raise UserError("regularization.mixup_alpha mixes inputs of one shape, and the lengths of these differ.")
        if augment is not None:
            batch = batch._replace(x=augment(batch.x))
        if not methods:
            return batch, None
        method, alpha = methods[int(torch.randint(len(methods), ()))] if len(methods) > 1 else methods[0]
        batch, mixing = method(batch, alpha)
        if mixed_part == "targets":
            return batch._replace(y=mixing.blend(batch.y, batch.y[mixing.partner])), None
        return batch, mixing

    return transform
