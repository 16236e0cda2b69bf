"""Parameters and memory of a job without making it: held against a model that is made."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from src.config.compose import compose
from src.config.validate import check
from src.sweeping.resource_estimate import estimate
from src.training.experiment import build

MakeOverrides = Callable[..., list[str]]


def held(overrides: list[str]) -> tuple[int, int, int]:
    """Train one step, and return parameters, bytes of weights with gradients and optimizer state, and bytes saved for a batch."""
    experiment = build(check(compose(overrides)))
    model, batch = experiment.model, next(iter(experiment.datamodule.loader("train")))
    own = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    saved: dict[int, Tensor] = {}

    def save(tensor: Tensor) -> Tensor:
        if id(tensor) not in own and id(tensor._base) not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        outputs = model.train()(*batch.inputs)
    outputs.sum().backward()
    from src.optim.factory import build_optimizer

    optimizer = build_optimizer(model, experiment.config)
    optimizer.step()
    state = [value for entry in optimizer.state.values() for value in entry.values() if isinstance(value, Tensor)]
    gradients = [parameter.grad for parameter in model.parameters()]
    tensors = [*model.parameters(), *model.buffers(), *(g for g in gradients if g is not None), *state]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return (
        sum(parameter.numel() for parameter in model.parameters()),
        size,
        sum(tensor.untyped_storage().nbytes() for tensor in saved.values()),
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=mlp"],
        ["model=cnn", "optimizer=momentum", "regularization=batch_norm"],
        ["model=resnet", "optimizer=sgd"],
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_an_estimate_is_what_training_holds(fast: MakeOverrides, overrides: list[str]) -> None:
    found = estimate(check(compose(fast(*overrides))))
    parameters, weights, activations = held(fast(*overrides))
    assert (found.parameters, found.weights) == (parameters, weights)
    assert found.activations is not None and found.activations == pytest.approx(activations, rel=0.15)


@pytest.mark.parametrize("model", ["lstm", "gru", "transformer"])
def test_every_family_can_be_estimated(fast: MakeOverrides, model: str) -> None:
    overrides = fast(f"model={model}")
    found = estimate(check(compose(overrides)))
    assert found.parameters == sum(p.numel() for p in build(check(compose(overrides))).model.parameters())
    assert found.weights > 4 * found.parameters


def test_nothing_is_allocated(fast: MakeOverrides) -> None:
    huge = estimate(check(compose(fast("model=mlp", "model.hidden_sizes=[1000000,1000000]"))))
    assert huge.parameters > 1e12 and huge.memory.endswith(" GB")
