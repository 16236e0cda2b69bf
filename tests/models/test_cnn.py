"""The convolutional network against the textbook's shapes, counts, formulas and its equivariance."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from src.config.compose import compose
from src.config.validate import check
from src.core.data_spec import DataSpec
from src.core.errors import UserError
from src.models.cnn import CNN, output_size
from src.models.mlp import MLP
from src.models.summary import summarize
from src.training.build import build_data, build_model

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


@pytest.mark.req("C2")
def test_default_config_is_the_network_of_the_textbook() -> None:
    config = check(compose(["model=cnn", "datamodule=shapes", "datamodule.train_size=10", "datamodule.val_size=10"]))
    data = build_data(config)
    summary = summarize(build_model(config, data.spec), next(iter(data.loader("train"))))
    rows = {row.name: row for row in summary.rows}
    layers = [*(f"features.{block}.{part}" for block in (0, 1) for part in (0, 1, 2)), *(f"head.{n}" for n in range(4))]
    shapes = [rows[layer].output_shape for layer in layers]
    block_1 = [(1, 16, 32, 32), (1, 16, 32, 32), (1, 16, 16, 16)]
    block_2 = [(1, 32, 16, 16), (1, 32, 16, 16), (1, 32, 8, 8)]
    assert shapes == [*block_1, *block_2, (1, 2048), (1, 128), (1, 128), (1, 10)]
    assert [rows[layer].parameters for layer in layers if rows[layer].parameters] == [448, 4_640, 262_272, 1_290]
    assert summary.parameters == 268_650


@pytest.mark.req("C2")
def test_cnn_has_a_third_fewer_parameters_than_the_mlp() -> None:
    """(411,146 - 268,650) / 411,146 = 34.7 %, and not the textbook's 53 % (E1)."""
    dense = sum(p.numel() for p in MLP(CIFAR, hidden_sizes=(128, 128)).parameters())
    convolutional = sum(p.numel() for p in CNN(CIFAR).parameters())
    assert f"{(dense - convolutional) / dense:.1%}" == "34.7%"


def reference_convolution(x: NDArray, kernel: NDArray, bias: NDArray, stride: int, padding: int) -> NDArray:
    """Return the cross-correlation [B, C, H, W] → [B, O, H', W'], window by window, with the textbook's size formula."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    k = kernel.shape[-1]
    rows, columns = ((side - k) // stride + 1 for side in x.shape[2:])
    out = np.zeros((len(x), len(kernel), rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = x[:, :, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, :, i, j] = np.einsum("bcuv,ocuv->bo", window, kernel) + bias
    return out


def reference_pooling(x: NDArray, kind: str, size: int, stride: int) -> NDArray:
    """PoolOp{X[s·i + p, s·j + q] : 0 ≤ p, q < k}."""
    rows, columns = ((side - size) // stride + 1 for side in x.shape[2:])
    out = np.zeros((*x.shape[:2], rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = x[:, :, i * stride : i * stride + size, j * stride : j * stride + size]
            out[:, :, i, j] = window.max((2, 3)) if kind == "max" else window.mean((2, 3))
    return out


@pytest.mark.req("C3")
@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(3, 1, 1), (3, 1, 0), (5, 2, 2), (2, 3, 1), (4, 1, 3)])
def test_convolution_is_cross_correlation_with_the_textbook_s_gradients(
    kernel_size: int, stride: int, padding: int
) -> None:
    """Y[o,i,j] = b[o] + Σ X[c, s·i+u, s·j+v] W[o,c,u,v], ∂L/∂W = Σ ∂L/∂Y[o,i,j] X[c, s·i+u, s·j+v], and ∂L/∂X collects
    ∂L/∂Y[o,i,j] W[o,c,u,v] at (s·i+u, s·j+v): the textbook's sum over Y[o, i-u, j-v], at any stride.
    """
    torch.manual_seed(0)
    model = CNN(
        DataSpec("classification", "image", (2, 9, 7), (3,)), (4,), kernel_size, stride, padding, "none"
    ).double()
    layer: Any = model.features[0]
    convolution = layer[0]
    nn.init.normal_(convolution.bias)
    x = torch.randn(3, 2, 9, 7, dtype=torch.float64, requires_grad=True)
    y = convolution(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    kernel, image, upstream = (t.detach().numpy() for t in (convolution.weight, x, dy))
    expected = reference_convolution(image, kernel, convolution.bias.detach().numpy(), stride, padding)
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=0, atol=1e-12)
    padded = np.pad(image, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    d_kernel, d_padded = np.zeros_like(kernel), np.zeros_like(padded)
    for u in range(kernel_size):
        for v in range(kernel_size):
            for i in range(y.size(2)):
                for j in range(y.size(3)):
                    at = (slice(None), slice(None), stride * i + u, stride * j + v)
                    d_kernel[:, :, u, v] += np.einsum("bo,bc->oc", upstream[:, :, i, j], padded[at])
                    d_padded[at] += np.einsum("bo,oc->bc", upstream[:, :, i, j], kernel[:, :, u, v])
    d_x = d_padded[:, :, padding : padding + 9, padding : padding + 7]
    np.testing.assert_allclose(convolution.weight.grad.numpy(), d_kernel, rtol=0, atol=1e-12)
    np.testing.assert_allclose(convolution.bias.grad.numpy(), upstream.sum((0, 2, 3)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), d_x, rtol=0, atol=1e-12)  # type: ignore[union-attr]


@pytest.mark.req("C4")
@pytest.mark.parametrize("pool", ["none", "max", "average"])
def test_output_size_counts_the_positions_where_a_window_fits(pool: str) -> None:
    """⌊(H + 2P - K) / S⌋ + 1 is the number of positions of the window, for a grid of (H, K, P, S)."""
    for size in (5, 8, 13):
        for kernel in (1, 2, 3, 5):
            for padding in (0, 1, 2):
                for stride in (1, 2, 3):
                    spec = DataSpec("classification", "image", (1, size, size + 3), (2,))
                    sides = [sum(1 for at in range(0, s + 2 * padding - kernel + 1, stride)) for s in (size, size + 3)]
                    assert sides == [output_size(s, kernel, stride, padding) for s in (size, size + 3)]
                    if pool != "none":
                        sides = [sum(1 for at in range(0, side - 3 + 1, 2)) for side in sides]
                    if min(sides) < 1:
                        continue
                    model = CNN(spec, (2,), kernel, stride, padding, pool, pool_size=3, pool_stride=2)
                    assert list(model.features(torch.zeros(1, 1, size, size + 3)).shape[2:]) == sides
                    assert model(torch.zeros(1, 1, size, size + 3)).shape == (1, 2)


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
        a = np.maximum(reference_convolution(a, kernel, bias, stride, border), 0)
        a = a if pool == "none" else reference_pooling(a, pool, pool_size, pool_size)
    a = np.maximum(a.reshape(2, -1) @ weights["head.1.weight"].T + weights["head.1.bias"], 0)
    expected = a @ weights["head.3.weight"].T + weights["head.3.bias"]
    np.testing.assert_allclose(model(torch.from_numpy(x)).detach().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.req("C1")
@pytest.mark.parametrize(("kernel", "side"), [(1, 12), (2, 11), (3, 12), (4, 11), (5, 12), (6, 11)])
def test_same_padding_preserves_the_size_except_for_even_kernels(kernel: int, side: int) -> None:
    """2 · ⌊(K - 1)/2⌋ is K - 1 for an odd K, and K - 2 for an even one."""
    model = CNN(DataSpec("classification", "image", (1, 12, 12), (2,)), (3,), kernel, pool="none")
    assert model.features(torch.zeros(1, 1, 12, 12)).shape == (1, 3, side, side)


@pytest.mark.req("C1")
def test_each_block_has_its_own_settings() -> None:
    torch.manual_seed(0)
    spec = DataSpec("regression", "image", (2, 17, 14), (3,))
    settings: dict[str, list[Any]] = {
        "kernel_size": [5, 3, 2],
        "stride": [1, 2, 1],
        "padding": ["same", 0, 1],
        "pool": ["average", "none", "max"],
        "pool_size": [3, 7, 2],
        "pool_stride": [1, 7, 2],
    }
    model = CNN(spec, (4, 5, 6), **settings, hidden_sizes=(7, 8), batch_norm=True).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    x = np.random.default_rng(0).normal(size=(2, *spec.input_shape))
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    a = x
    for block, border in enumerate([2, 0, 1]):
        kernel, stride, pool, size, pool_step = (
            settings[key][block] for key in ("kernel_size", "stride", "pool", "pool_size", "pool_stride")
        )
        assert state[f"features.{block}.0.weight"].shape[2:] == (kernel, kernel)
        a = reference_convolution(
            a, state[f"features.{block}.0.weight"], state[f"features.{block}.0.bias"], stride, border
        )
        gamma, beta, mean, variance = (
            state[f"features.{block}.1.{key}"][:, None, None]
            for key in ("weight", "bias", "running_mean", "running_var")
        )
        a = np.maximum(gamma * (a - mean) / np.sqrt(variance + 1e-5) + beta, 0)
        a = a if pool == "none" else reference_pooling(a, pool, size, pool_step)
    a = a.reshape(2, -1)
    for layer in (1, 3):
        a = np.maximum(a @ state[f"head.{layer}.weight"].T + state[f"head.{layer}.bias"], 0)
    expected = a @ state["head.5.weight"].T + state["head.5.bias"]
    np.testing.assert_allclose(model(torch.from_numpy(x)).detach().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.req("C1")
def test_settings_list_must_have_one_entry_per_block() -> None:
    with pytest.raises(UserError, match=r"model\.stride=\[1, 2, 1\]: .* 2 blocks, and the list has 3"):
        check(compose(["model=cnn", "model.stride=[1,2,1]"]))
    with pytest.raises(UserError, match=r"model\.pool\[1\]=avg: Did you mean 'average'"):
        check(compose(["model=cnn", "model.pool=[max,avg]"]))


@pytest.mark.req("C5")
@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (2, -1), (-2, 2)])
@pytest.mark.parametrize(
    ("settings", "jump"),
    [
        ({}, 4),
        ({"pool": "average"}, 4),
        ({"pool": "none"}, 1),
        ({"stride": 2}, 16),
        ({"kernel_size": 5, "padding": 0}, 4),
    ],
    ids=str,
)
def test_features_are_equivariant_to_shifts(settings: dict[str, Any], jump: int, shift: tuple[int, int]) -> None:
    """f(T(x)) = T(f(x)): a shift of the image by a multiple of the features' jump shifts the features by that multiple, except
    near the borders, where padding has an effect.
    """
    torch.manual_seed(0)
    side = 24 * jump
    features = CNN(DataSpec("classification", "image", (2, side, side), (3,)), (3, 4), **settings).double().features
    image = torch.zeros(1, 2, side, side, dtype=torch.float64)
    middle = slice(10 * jump, 14 * jump)
    image[:, :, middle, middle] = torch.randn(2, 4 * jump, 4 * jump, dtype=torch.float64)
    still, moved = features(image), features(image.roll([jump * places for places in shift], (2, 3)))
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    assert not torch.allclose(moved[inside], still[inside])
    torch.testing.assert_close(moved[inside], still.roll(shift, (2, 3))[inside], rtol=0, atol=1e-12)


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


@pytest.mark.req("C7")
def test_running_statistics_follow_the_batches_and_not_the_gradient() -> None:
    """running ← 0.9 · running + 0.1 · batch, with the variance of a batch divided by m - 1, over several steps."""
    torch.manual_seed(0)
    model = MLP(DataSpec("regression", "vector", (5,), (1,)), (4,), batch_norm=True).double()
    linear, norm = model.layers[1], model.layers[2]
    assert isinstance(norm, nn.BatchNorm1d) and isinstance(linear, nn.Linear)
    mean, variance = np.zeros(4), np.ones(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for size in (6, 9, 2, 30):
        x = torch.randn(size, 5, dtype=torch.float64) * 3 + 1
        z = x.numpy() @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        mean = 0.9 * mean + 0.1 * z.mean(0)
        variance = 0.9 * variance + 0.1 * ((z - z.mean(0)) ** 2).sum(0) / (size - 1)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=0, atol=1e-12)  # type: ignore[union-attr]
        np.testing.assert_allclose(norm.running_var.numpy(), variance, rtol=0, atol=1e-12)  # type: ignore[union-attr]
    model.eval()
    x = torch.randn(3, 5, dtype=torch.float64)
    alone = torch.cat([model(row) for row in x.split(1)])
    torch.testing.assert_close(model(x), alone, rtol=0, atol=1e-12)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=0, atol=1e-12)  # type: ignore[union-attr]


@pytest.mark.req("C7")
def test_gradients_of_gamma_and_beta_are_their_formulas() -> None:
    """∂J/∂γ = Σ ∂J/∂y · x̂ and ∂J/∂β = Σ ∂J/∂y, over batch and positions."""
    torch.manual_seed(0)
    model = CNN(CIFAR, channels=(4,), batch_norm=True).double()
    block: Any = model.features[0]
    norm, x = block[1], torch.randn(5, 4, 6, 6, dtype=torch.float64)
    y = norm(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    normalised = (x - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(norm.weight.grad, (dy * normalised).sum((0, 2, 3)), rtol=0, atol=1e-12)
    torch.testing.assert_close(norm.bias.grad, dy.sum((0, 2, 3)), rtol=0, atol=1e-12)


@pytest.mark.req("G2")
def test_spatial_dropout_drops_whole_maps_and_preserves_the_mean() -> None:
    torch.manual_seed(0)
    spec = DataSpec("classification", "image", (3, 8, 8), (10,))
    model = CNN(spec, channels=(64,), spatial_dropout=0.4).double()
    x = torch.randn(100, 3, 8, 8, dtype=torch.float64)
    maps = model.features(x) / model.eval().features(x)
    scale = maps.nan_to_num(0).flatten(2).amax(2)
    assert torch.equal(maps.nan_to_num(0).flatten(2).count_nonzero(2) > 0, scale > 0)
    nonzero = scale[scale > 0]
    torch.testing.assert_close(nonzero, torch.full_like(nonzero, 1 / 0.6))
    assert abs(scale.mean() - 1) < 5 * (0.4 / 0.6 / scale.numel()) ** 0.5


def test_dropout_is_in_the_fully_connected_layers_only() -> None:
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
def test_image_that_shrinks_to_nothing_is_rejected(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message + r".*model\.pool"):
        CNN(DataSpec("classification", "image", (1, 8, 8), (10,)), **settings)
