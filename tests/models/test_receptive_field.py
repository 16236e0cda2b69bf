"""Receptive field and jump against the support of the gradient of one output unit, and against the formula (E5)."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.core.batches import LabelledBatch
from src.core.data_spec import DataSpec
from src.models.cnn import CNN
from src.models.receptive_field import Field
from src.models.resnet import ResNet
from src.models.summary import summarize

SIDE = 64
IMAGES = DataSpec("classification", "image", (2, SIDE, SIDE), (3,))


class Branches(nn.Module):
    """Two parallel branches of different depth, one of which strides by a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.long = nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1), nn.Tanh(), nn.Conv2d(3, 3, 5, 1, 2))
        self.last = nn.Conv2d(5, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.long(x), x[:, :, ::2, ::2]], 1))


class Strided(nn.Module):
    """A slice as the only stride, with a different step along each axis."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x[:, :, ::2, ::3])


NETWORKS: dict[str, tuple[nn.Module, list[str]]] = {
    "textbook": (CNN(IMAGES).features, ["0.0", "0.2", "1.0", "1.2"]),
    "different settings per block": (
        CNN(
            IMAGES,
            (4, 4, 4),
            kernel_size=[5, 3, 2],
            stride=[2, 1, 1],
            padding=[2, 0, 1],
            pool=["average", "none", "max"],
            pool_size=[3, 1, 2],
            pool_stride=[1, 1, 2],
            activation="tanh",
            batch_norm=True,
        ).features,
        ["0.0", "0.3", "1.0", "2.0", "2.3"],
    ),
    "dilated and oblong": (
        nn.Sequential(nn.Conv2d(2, 3, (3, 5), (1, 2), (1, 2)), nn.Sigmoid(), nn.Conv2d(3, 2, 3, dilation=(2, 3))),
        ["0", "2"],
    ),
    "residual": (
        ResNet(IMAGES, 1, (4, 6, 8), "tanh"),
        ["stem.0", "blocks.0", "blocks.1.branch.0", "blocks.1", "blocks.2"],
    ),
    "branches": (Branches(), ["long.0", "long.2", "last"]),
    "strided": (Strided(), ["last"]),
}
CASES = [(name, layer) for name, (_, layers) in NETWORKS.items() for layer in layers]


def fields(model: nn.Module) -> dict[str, Field | None]:
    batch = LabelledBatch(torch.randn(1, 2, SIDE, SIDE), torch.zeros(1))
    return {row.name: row.field for row in summarize(model, batch).rows}


def support(model: nn.Module, layer: str, position: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the first and the last row and column of the pixels that the unit at a position has a gradient of."""
    outputs: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, out: outputs.append(out))
    x = torch.randn(64, 2, SIDE, SIDE, dtype=torch.float64, requires_grad=True)
    model(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(outputs[0][:, :, position[0], position[1]].square().sum(), x)
    seen = gradient.abs().sum((0, 1)) > 0
    return [(int(line.nonzero().min()), int(line.nonzero().max())) for line in (seen.any(1), seen.any(0))]


@pytest.mark.req("C4")
@pytest.mark.parametrize(("name", "layer"), CASES)
def test_field_and_jump_are_those_of_the_gradient(name: str, layer: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name][0].double().eval()
    field = fields(model.float())[layer]
    assert field is not None
    model = model.double()
    out: list[Any] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, o: out.append(o.shape[2:]))
    model(torch.zeros(1, 2, SIDE, SIDE, dtype=torch.float64))
    handle.remove()
    row, column = (side // 2 for side in out[0])
    here, there = support(model, layer, (row, column)), support(model, layer, (row + 1, column + 1))
    assert tuple(last - first + 1 for first, last in here) == field.size
    assert tuple(b[0] - a[0] for a, b in zip(here, there, strict=True)) == field.jump


@pytest.mark.req("C4")
def test_field_grows_by_the_product_of_earlier_strides() -> None:
    """RF_{l+1} = RF_l + (k_{l+1} - 1) · ∏_{i ≤ l} s_i and J_{l+1} = J_l · s_{l+1}, for the textbook's net (E5)."""
    results = fields(CNN(IMAGES))
    size = jump = 1
    for layer, kernel, stride in [("0.0", 3, 1), ("0.2", 2, 2), ("1.0", 3, 1), ("1.2", 2, 2)]:
        size, jump = size + (kernel - 1) * jump, jump * stride
        assert results[f"features.{layer}"] == Field((size, size), (jump, jump))
    assert (size, jump) == (10, 4)
    assert results["head.0"] is results["head.1"] is None, "a fully connected layer sees everything"


def test_layer_that_sees_the_whole_input_has_no_field() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)
            self.after = nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.after(F.softmax(y.flatten(2), -1).view_as(y))

    results = fields(Mean())
    assert results["conv"] == Field((3, 3), (1, 1)) and results["after"] is None
    upsampled = fields(nn.Sequential(nn.Conv2d(2, 2, 3), nn.ConvTranspose2d(2, 2, 2, 2)))
    assert upsampled["0"] is not None and upsampled["1"] is None


@pytest.mark.req("C4")
def test_table_has_fields_for_image_networks_only(capsys: pytest.CaptureFixture[str]) -> None:
    from src.core.tables import show

    show(summarize(CNN(IMAGES), LabelledBatch(torch.randn(1, 2, SIDE, SIDE), torch.zeros(1))).table())
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[1:]}
    assert lines["layer"][-2:] == ["field", "jump"]
    assert lines["features.1.0"][-2:] == ["8", "2"] and lines["features.1.2"][-2:] == ["10", "4"]
    assert lines["head.1"][-2:] == ["-", "-"]
    show(summarize(nn.Sequential(nn.Linear(3, 2)), LabelledBatch(torch.randn(2, 3), torch.zeros(2))).table())
    assert "jump" not in capsys.readouterr().out
