"""The residual network against the paper's sizes, and its blocks against the formula."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from src.core.data_spec import DataSpec
from src.models.base import Model
from src.models.cnn import CNN
from src.models.resnet import ResidualBlock, ResNet

CIFAR = DataSpec("classification", "image", (3, 32, 32), (10,))


@pytest.mark.req("C6")
@pytest.mark.parametrize(
    ("n", "layers", "millions"),
    [(3, 20, "0.27"), (5, 32, "0.46"), (7, 44, "0.66"), (9, 56, "0.85"), (18, 110, "1.7")],
)
def test_layers_and_parameters_of_the_paper(n: int, layers: int, millions: str) -> None:
    """He et al. 2016, table 6: ResNet-20 to ResNet-110 for CIFAR-10."""
    with torch.device("meta"):
        model = ResNet(CIFAR, blocks_per_stage=n)
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in model.modules()) == layers
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert f"{count:.{len(millions) - 2}f}" == millions


@pytest.mark.parametrize("cls", [CNN, ResNet])
def test_weights_are_channels_last_on_a_gpu_only(cls: type[Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """The device of the model decides, not whether a GPU is available."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device, last in (("cpu", False), ("cuda", True)):
        model = cls(CIFAR)
        monkeypatch.setattr(cls, "device", torch.device(device))
        model.on_fit_start()
        weights = [
            layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size > (1, 1)
        ]
        assert len(weights) >= 2
        assert all(weight.is_contiguous(memory_format=torch.channels_last) == last for weight in weights)


@pytest.mark.req("C6")
def test_stages_halve_the_image() -> None:
    model = ResNet(CIFAR, blocks_per_stage=2).eval()
    shapes: list[tuple[int, ...]] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    model(torch.randn(1, 3, 32, 32))
    assert shapes == [(16, 32, 32)] * 2 + [(32, 16, 16)] * 2 + [(64, 8, 8)] * 2


@pytest.mark.req("C6")
def test_convolutions_use_he_initialization() -> None:
    """N(0, 2/n_in) with n_in = 3·3·channels (He et al. 2015), as in the paper; by the Kolmogorov-Smirnov test."""
    torch.manual_seed(0)
    model = ResNet(CIFAR)
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 19
    for layer in convolutions:
        weights = layer.weight.detach().flatten().numpy()
        std = (2 / (9 * layer.in_channels)) ** 0.5
        assert stats.kstest(weights, stats.norm(0, std).cdf).pvalue > 1e-3
    linear = model.head[-1]
    assert isinstance(linear, nn.Linear) and not linear.bias.any()


@pytest.mark.req("C6")
@pytest.mark.parametrize(("width_in", "width", "stride"), [(4, 4, 1), (4, 7, 2), (4, 7, 1), (5, 3, 2)])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
def test_block_is_its_formula(width_in: int, width: int, stride: int, size: tuple[int, int]) -> None:
    """activation(shortcut + branch), new channels of the shortcut filled with zeros (option A)."""
    torch.manual_seed(0)
    block = ResidualBlock(width_in, width, stride, "relu", drop=0.0).double().eval()
    x = torch.randn(2, width_in, *size, dtype=torch.float64)
    layers: Any = block.branch
    first, second = layers[0], layers[3]
    scale = (1 + 1e-5) ** -0.5  # batch norm before any training
    branch = F.conv2d(x, first.weight, stride=stride, padding=1) * scale
    branch = F.conv2d(branch.clamp(min=0), second.weight, padding=1) * scale
    shortcut = torch.zeros_like(branch)
    for channel in range(min(width, width_in)):
        for row in range(branch.size(2)):
            for column in range(branch.size(3)):
                shortcut[:, channel, row, column] = x[:, channel, row * stride, column * stride]
    torch.testing.assert_close(block(x), (shortcut + branch).clamp(min=0), rtol=0, atol=1e-12)


@pytest.mark.req("C6")
def test_skip_probability_grows_linearly_with_depth() -> None:
    """Block l of L is skipped with l/L of the last block's probability (Huang et al. 2016)."""
    model = ResNet(CIFAR, blocks_per_stage=2, stochastic_depth=0.6)
    blocks: Any = model.blocks
    drops = [block.drop.drop for block in blocks]
    torch.testing.assert_close(drops, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


@pytest.mark.req("C6")
def test_skipped_block_returns_its_input() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(4, 4, 1, "relu", drop=0.5)
    x = torch.rand(400, 4, 5, 5)
    same = (block(x) == x).flatten(1).all(1)
    assert 150 < same.sum() < 250
