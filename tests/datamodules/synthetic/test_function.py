"""The function data against the functions, the picture of a fit, and universal approximation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.callbacks.fitted_function import fit_figure
from src.cli.predict import predict
from src.config.compose import compose
from src.config.schema.datamodule import Function as FunctionOption
from src.config.validate import check
from src.core.errors import UserError
from src.datamodules.synthetic.function import FUNCTIONS, Function
from src.training.run import run

MakeOverrides = Callable[..., list[str]]

VALUES = {  # at -0.75, 0, 0.3
    "sine": (1.0, 0.0, 0.9510565162951535),
    "chirp": (-np.sin(2 * np.pi * 0.5625), 0.0, np.sin(2 * np.pi * 0.09)),
    "absolute": (0.75, 0.0, 0.3),
    "runge": (1 / 15.0625, 1.0, 1 / 3.25),
    "step": (-1.0, 1.0, 1.0),
    "square": (1.0, 1.0, 1.0),
    "sawtooth": (-0.5, -1.0, -0.4),
}


def test_schema_and_class_know_the_same_functions() -> None:
    assert set(FunctionOption.model_fields["function"].annotation.__args__) == set(FUNCTIONS) == set(VALUES)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_known_values(name: str) -> None:
    np.testing.assert_allclose(FUNCTIONS[name](np.array([-0.75, 0, 0.3])), VALUES[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_test_split_is_noise_free_and_training_is_noisy(name: str) -> None:
    data = Function(name, range=(-2, 3), train_size=4000, noise=0.2)
    x, y = data.points("test")
    np.testing.assert_allclose(x, np.linspace(-2, 3, 500), atol=1e-5)
    np.testing.assert_allclose(y, FUNCTIONS[name](np.linspace(-2, 3, 500)), atol=1e-6)
    x, y = data.points("train")
    assert -2 <= x.min() < -1.99 and 2.99 < x.max() <= 3
    noise = y - FUNCTIONS[name](x)
    steady = np.abs(noise) < 1.2  # where single precision moved x over a jump
    assert steady.mean() > 0.999 and abs(noise[steady].std() - 0.2) < 0.01 and abs(noise[steady].mean()) < 0.02


def test_unknown_function_is_rejected() -> None:
    with pytest.raises(UserError, match="Did you mean 'sine'"):
        check(compose(["model=mlp", "datamodule=function", "datamodule.function=sinne"]))


@pytest.mark.req("M7")
@pytest.mark.slow
def test_test_error_decreases_with_the_width(fast: MakeOverrides) -> None:
    """Universal approximation: one hidden layer comes as near as its width allows."""
    everything = [
        "trainer.limit_train_batches=null",
        "trainer.limit_val_batches=null",
        "trainer.limit_test_batches=null",
    ]
    errors = []
    for width in (1, 4, 16):
        overrides = ["experiment=universal_approximation", f"model.hidden_sizes=[{width}]"]
        result = run(fast(*overrides, "trainer.max_epochs=300", *everything), verbose=False)
        errors.append(result.metrics["test/rmse"])
    assert errors[0] > 2 * errors[1] and errors[1] > 1.5 * errors[2] and errors[2] < 0.1
    x = np.array([-0.6, 0.2])
    predictions = predict(result.folder, [str(value) for value in x])
    np.testing.assert_allclose([a["prediction"] for a in predictions], np.sin(2 * np.pi * x), atol=0.2)


@pytest.mark.req("M7")
def test_run_writes_the_plot_of_its_fit(fast: MakeOverrides) -> None:
    result = run(fast("experiment=universal_approximation"), verbose=False)
    with Image.open(result.folder / "plots" / "fit.png") as image:
        assert image.format == "PNG" and image.size[0] > 500


@pytest.mark.req("M7")
def test_plot_contains_points_function_and_prediction() -> None:
    x = np.linspace(-1, 1, 9)
    figure = fit_figure((x[::2], x[::2] + 0.1), (x, x), x + 0.5)
    points, target, prediction = figure.axes[0].lines
    assert [line.get_label() for line in figure.axes[0].lines] == ["training points", "target", "prediction"]
    np.testing.assert_array_equal(points.get_ydata(), x[::2] + 0.1)
    np.testing.assert_array_equal(target.get_ydata(), x)
    np.testing.assert_array_equal(prediction.get_ydata(), x + 0.5)
    assert "0.5" in figure.axes[0].get_title()


def test_plot_requires_a_function_datamodule(fast: MakeOverrides, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs datamodule=function"):
        run(fast("callbacks=fit", "datamodule=digits"), verbose=False)
    assert not list(tmp_path.glob("outputs/runs/*/*")), "a refused run leaves no folder"
