"""The convolutional network against the textbook's shapes, counts, formulas and its equivariance."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from src.errors import UserError
from src.models.cnn import CNN
from src.spec import DataSpec

CIFAR = DataSpec("classification", "image", (3, 32, 32), (10,))


@pytest.mark.req("C2")
def test_shapes_and_parameters_of_the_textbook() -> None:
    """X_1 … X_8 and Y of "Tensor Transformations"; 448 + 4,640 + 262,272 + 1,290 = 268,650 parameters."""
    model = CNN(CIFAR, channels=(16, 32), hidden_sizes=(128,))
    shapes: list[tuple[int, ...]] = []
    counts: list[int] = []
    leaves = [module for module in model.modules() if not list(module.children()) and module is not model]
    for leaf in leaves:
        if isinstance(leaf, nn.Conv2d | nn.Linear | nn.ReLU | nn.MaxPool2d | nn.Flatten):
            leaf.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
            counts.append(sum(p.numel() for p in leaf.parameters()))
    model(torch.randn(2, 3, 32, 32))
    block_1 = [(16, 32, 32), (16, 32, 32), (16, 16, 16)]
    block_2 = [(32, 16, 16), (32, 16, 16), (32, 8, 8)]
    assert shapes == [*block_1, *block_2, (2048,), (128,), (128,), (10,)]
    assert [count for count in counts if count] == [448, 4_640, 262_272, 1_290]
    assert sum(p.numel() for p in model.parameters()) == 268_650


def convolved(x: NDArray, kernel: NDArray, bias: NDArray, stride: int, padding: int) -> NDArray:
    """Cross-correlation [B, C, H, W] → [B, O, H', W'], a window at a time, with the size formula of the textbook."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    k = kernel.shape[-1]
    rows, columns = ((side - k) // stride + 1 for side in x.shape[2:])
    out = np.zeros((len(x), len(kernel), rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = x[:, :, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, :, i, j] = np.einsum("bcuv,ocuv->bo", window, kernel) + bias
    return out


def pooled(x: NDArray, kind: str, size: int) -> NDArray:
    rows, columns = (side // size for side in x.shape[2:])
    windows = x[:, :, : rows * size, : columns * size].reshape(*x.shape[:2], rows, size, columns, size)
    return windows.max((3, 5)) if kind == "max" else windows.mean((3, 5))


@pytest.mark.req("C1")
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "pool", "pool_size"),
    [
        (3, 1, "same", "max", 2),
        (5, 1, "same", "average", 2),
        (3, 2, 1, "none", 2),
        (4, 1, 0, "max", 2),
        (1, 1, 2, "average", 2),
    ],
)
def test_forward_is_the_formula(kernel_size: int, stride: int, padding: int | str, pool: str, pool_size: int) -> None:
    torch.manual_seed(0)
    spec = DataSpec("regression", "image", (2, 17, 14), (3,))
    model = CNN(spec, (4, 5), kernel_size, stride, padding, pool, pool_size, hidden_sizes=(6,)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = np.random.default_rng(0).normal(size=(2, *spec.input_shape))
    border = (kernel_size - 1) // 2 if padding == "same" else int(padding)
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    a = x
    for block in range(2):
        kernel, bias = weights[f"features.{block}.0.weight"], weights[f"features.{block}.0.bias"]
        a = np.maximum(convolved(a, kernel, bias, stride, border), 0)
        a = a if pool == "none" else pooled(a, pool, pool_size)
    a = np.maximum(a.reshape(2, -1) @ weights["head.1.weight"].T + weights["head.1.bias"], 0)
    expected = a @ weights["head.3.weight"].T + weights["head.3.bias"]
    np.testing.assert_allclose(model(torch.from_numpy(x)).detach().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.req("C5")
def test_features_move_with_the_image() -> None:
    """A shift by the jump of the features, 2 · 2 pixels, shifts them by one, away from the borders."""
    torch.manual_seed(0)
    features = CNN(CIFAR).double().features
    image = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    image[:, :, 8:20, 8:20] = torch.randn(3, 12, 12, dtype=torch.float64)
    moved = features(image.roll((4, 4), (2, 3)))
    still = features(image)
    shifted = still.roll((1, 1), (2, 3))
    assert not torch.allclose(moved, still)
    torch.testing.assert_close(moved[:, :, 2:-1, 2:-1], shifted[:, :, 2:-1, 2:-1], rtol=0, atol=1e-12)


@pytest.mark.req("C7")
def test_batch_norm_is_the_formula_in_training_and_evaluation() -> None:
    torch.manual_seed(0)
    model = CNN(CIFAR, channels=(4,), batch_norm=True).double()
    block: Any = model.features[0]
    convolution, norm = block[0], block[1]
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    y = convolution(x)
    mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)

    def normalised(mean: Tensor, variance: Tensor) -> Tensor:
        mean, variance, gamma, beta = (t.view(1, -1, 1, 1) for t in (mean, variance, norm.weight, norm.bias))
        return gamma * (y - mean) / (variance + 1e-5).sqrt() + beta

    torch.testing.assert_close(norm(y), normalised(mean, variance), rtol=0, atol=1e-10)
    count = y.numel() / y.size(1)
    running_mean, running_variance = 0.1 * mean, 0.9 + 0.1 * variance * count / (count - 1)
    torch.testing.assert_close(norm.running_mean, running_mean.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(norm.running_var, running_variance.detach(), rtol=0, atol=1e-12)
    model.eval()
    torch.testing.assert_close(norm(y), normalised(running_mean, running_variance), rtol=0, atol=1e-10)


@pytest.mark.req("G2")
def test_spatial_dropout_drops_whole_maps_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    spec = DataSpec("classification", "image", (3, 8, 8), (10,))
    model = CNN(spec, channels=(64,), spatial_dropout=0.4).double()
    x = torch.randn(100, 3, 8, 8, dtype=torch.float64)
    maps = model.features(x) / model.eval().features(x)
    fate = maps.nan_to_num(0).flatten(2).amax(2)
    assert torch.equal(maps.nan_to_num(0).flatten(2).count_nonzero(2) > 0, fate > 0)
    kept = fate[fate > 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.6))
    assert abs(fate.mean() - 1) < 5 * (0.4 / 0.6 / fate.numel()) ** 0.5


def test_dropout_is_for_the_fully_connected_layers() -> None:
    model = CNN(CIFAR, hidden_sizes=(20, 10), dropout=0.3)
    assert [layer.p for layer in model.head if isinstance(layer, nn.Dropout)] == [0.3, 0.3]
    assert not any(isinstance(layer, nn.Dropout | nn.Dropout2d) for layer in model.features.modules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": (4, 4, 4, 4)}, "block 4 of 4 leaves 0×0 of images of 8×8"),
        ({"kernel_size": 9, "padding": 0, "pool": "none"}, "block 1 of 2 leaves 0×0 of images of 8×8"),
        ({"stride": 3, "pool_size": 4}, "block 1 of 2 leaves 0×0 of images of 8×8"),
    ],
)
def test_an_image_that_shrinks_to_nothing_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message + r".*model\.pool"):
        CNN(DataSpec("classification", "image", (1, 8, 8), (10,)), **settings)
