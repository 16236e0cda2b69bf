"""Small members of every model and optimizer, and separate training of the same models."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from itertools import islice

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from src.config.compose import compose
from src.config.schema.run import Config
from src.config.validate import check
from src.core.batches import Batch
from src.datamodules.base import DataModule
from src.models.base import Model
from src.optim.factory import build_optimizer
from src.training.build import build_data, build_model

K = 3

NARROW = {
    "hidden_sizes": "[8,6]",
    "channels": "[3,4]",
    "widths": "[3,4]",
    "hidden_size": "6",
    "embedding_size": "5",
    "d_model": "8",
    "num_heads": "2",
    "num_layers": "1",
    "d_ff": "12",
}
"""Small values for the size settings of a model; other settings keep their defaults."""

Members = tuple[list[Model], list[Optimizer]]


class Twins:
    """The same members twice: to be trained separately and as one model.

    Args:
        configs: one per member.
        datamodule: of all members.
        dtype: of all parameters.
    """

    def __init__(self, configs: Sequence[Config], datamodule: DataModule, dtype: torch.dtype) -> None:
        self.models: list[Model] = []
        for config in configs:
            L.seed_everything(config.seed, verbose=False)
            self.models.append(build_model(config, datamodule.spec).to(dtype).train())
        self.optimizers = [build_optimizer(m, m.training_config) for m in self.models]
        self.separate = [deepcopy(model) for model in self.models]
        self.separate_optimizers = [build_optimizer(m, m.training_config) for m in self.separate]
        self._batches = [_cast(batch, dtype) for batch in islice(datamodule.train_dataloader(), 2 * K)]
        sizes = {len(batch[0]) for batch in self._batches}
        self._batches = [batch for batch in self._batches if len(batch[0]) == max(sizes)]

    def batches(self, steps: int) -> Iterator[list[Batch]]:
        """Yield a batch of each member for every step."""
        for step in range(steps):
            yield [self._batches[(step + member) % len(self._batches)] for member in range(len(self.models))]

    def step_separately(self, batches: Sequence[Batch]) -> Tensor:
        """Take a separate step of each member; return the losses [K]."""
        members = zip(self.separate, self.separate_optimizers, batches, strict=True)
        return torch.stack([_ordinary_step(*member) for member in members])

    def assert_equal(self, tolerance: float) -> None:
        """Compare weights, buffers and optimizer states, including names and dtypes."""
        close = {"rtol": tolerance, "atol": tolerance, "check_stride": False}
        for model, separate in zip(self.models, self.separate, strict=True):
            torch.testing.assert_close(dict(model.named_buffers()), dict(separate.named_buffers()), **close)
        pairs = zip(self.models, self.optimizers, self.separate, self.separate_optimizers, strict=True)
        for model, optimizer, separate, separate_optimizer in pairs:
            state, expected = optimizer.state_dict(), separate_optimizer.state_dict()
            assert state["param_groups"] == expected["param_groups"]
            assert state["state"].keys() == expected["state"].keys()
            torch.testing.assert_close(
                _determined(model, optimizer), _determined(separate, separate_optimizer), **close
            )


def _determined(model: Model, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return every parameter and its optimizer state, without the biases of attention keys.

    The biases of keys do not change the output, because softmax is invariant to a common shift of all scores. Their gradients
    are rounding errors of zero, which AdaGrad and Lion turn into full steps.
    """
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, tensor in {"": parameter.detach(), **optimizer.state.get(parameter, {})}.items():
            is_key_bias = name.endswith("key_value.bias") and tensor.dim()
            tensors[f"{name} {key}"] = tensor[len(tensor) // 2 :] if is_key_bias else tensor
    return tensors


def stacked(batches: Sequence[Batch], padding: int | None = None) -> Batch:
    """Stack the batches of all members, with tokens padded to the longest."""
    fields = [list(tensors) for tensors in zip(*batches, strict=True)]
    if padding is not None:
        fields = [
            [_filled(x, max(y.size(-1) for y in field), padding) for x in field] if field[0].dim() > 1 else field
            for field in fields
        ]
    return type(batches[0])(*map(torch.stack, fields))


def _filled(x: Tensor, length: int, padding: int) -> Tensor:
    return F.pad(x, (0, length - x.size(1)), value=padding)


def _cast(batch: Batch, dtype: torch.dtype) -> Batch:
    return type(batch)(*(x.to(dtype) if x.is_floating_point() else x for x in batch))


def _ordinary_step(model: Model, optimizer: Optimizer, batch: Batch) -> Tensor:
    knobs = model.training_config.regularization
    losses = model.losses(model(*batch.inputs), batch.targets, knobs.label_smoothing)
    weights = model.task.weights(batch.targets)
    loss = losses.sum() / (losses.numel() if weights is None else weights.sum())
    optimizer.zero_grad()
    loss.backward()
    if knobs.gradient_clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), knobs.gradient_clip_norm)
    elif knobs.gradient_clip_value is not None:
        torch.nn.utils.clip_grad_value_(model.parameters(), knobs.gradient_clip_value)
    optimizer.step()
    return loss.detach()


@pytest.fixture
def twins(complete: Callable[..., list[str]]) -> Callable[..., Twins]:
    """Return a function that makes members from overrides.

    Args:
        overrides: of all members.
        each: further overrides of each member.
        dtype: of all parameters.
    """
    from tests.conftest import SMALL

    def make(
        *overrides: str, each: Sequence[Sequence[str]] = ((), (), ()), dtype: torch.dtype = torch.float64
    ) -> Twins:
        argv = complete(*overrides)
        argv = [override for override in argv if not override.startswith("callbacks")] + ["callbacks=none"]
        composed = compose(argv)
        keys = {override.partition("=")[0] for override in overrides}
        narrow = [f"model.{key}={value}" for key, value in NARROW.items() if key in composed.model]
        small = [f"datamodule.{override}" for override in SMALL.get(composed.datamodule.name, [])]
        small += ["datamodule.batch_size=8"] if "batch_size" not in str(small) else []
        argv = [*(size for size in (*narrow, *small) if size.partition("=")[0] not in keys), *argv]
        if composed.regularization.dropout and "regularization.dropout" not in keys:
            argv.append("regularization.dropout=0.0")
        configs = [check(compose([*argv, f"seed={number}", *member])) for number, member in enumerate(each)]
        datamodule = build_data(configs[0])
        datamodule.prepare_data()
        datamodule.setup()
        return Twins(configs, datamodule, dtype)

    return make
