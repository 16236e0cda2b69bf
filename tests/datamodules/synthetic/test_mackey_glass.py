import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from src.core.errors import UserError
from src.datamodules.synthetic.mackey_glass import MackeyGlass, mackey_glass


def reference(length: int, tau: int) -> np.ndarray:
    """The method of steps: between two multiples of the delay the past is known, and the rest an ordinary equation."""
    pieces, start, out = [], 1.2, []

    def past(t: float) -> float:
        return 1.2 if t <= tau else pieces[min(int((t - tau) // tau), len(pieces) - 1)](t - tau)[0]

    def slope(t: float, x: np.ndarray) -> list[float]:
        return [0.2 * past(t) / (1 + past(t) ** 10) - 0.1 * x[0]]

    while len(pieces) * tau < length:
        span = (len(pieces) * tau, (len(pieces) + 1) * tau)
        piece = solve_ivp(slope, span, [start], rtol=1e-10, atol=1e-11, method="DOP853", dense_output=True)
        pieces.append(piece.sol)
        start = piece.y[0, -1]
    for t in range(length):
        out.append(pieces[t // tau](t)[0])
    return np.array(out)


@pytest.fixture(scope="module")
def data() -> MackeyGlass:
    datamodule = MackeyGlass(length=1000)
    datamodule.setup()
    return datamodule


def test_series_equals_scipy():
    np.testing.assert_allclose(mackey_glass(200), reference(500, 17)[300:], atol=1e-6)


def test_short_delay_converges_and_long_delay_is_chaotic():
    """x = 1 is stable for τ below 4.7, and the delay of the benchmark is chaotic (Mackey and Glass 1977)."""
    assert np.abs(mackey_glass(300, tau=2)[-50:] - 1).max() < 1e-6
    late = mackey_glass(3000)[-2000:]
    assert late.std() > 0.2 and 0.2 < late.min() < late.max() < 1.4
    assert min(np.abs(late[lag:] - late[:-lag]).max() for lag in range(10, 300)) > 0.05  # no period


def test_targets_follow_their_windows(data):
    series = mackey_glass(1000)
    scale = data.state_dict()["scale"]
    start = {"train": 0, "val": 700, "test": 850}
    for name, first in start.items():
        split = data.split(name)
        size = {"train": 700}.get(name, 150)
        assert len(split.x) == size - 48 - 12 + 1
        for i in (0, 17, len(split.x) - 1):
            window = torch.cat([split.x[i], split.y[i]]).double().flatten().numpy() * scale["deviation"] + scale["mean"]
            np.testing.assert_allclose(window, series[first + i : first + i + 60], rtol=1e-5)
        assert first + len(split.x) + 59 <= first + size  # no window reaches into the next split


def test_series_is_standardised_with_the_training_split(data):
    part = mackey_glass(1000)[:700]
    assert data.state_dict()["scale"]["mean"] == [pytest.approx(part.mean(), rel=1e-12)]
    assert data.state_dict()["scale"]["deviation"] == [pytest.approx(part.std(), rel=1e-12)]


def test_baseline_repeats_the_last_value(data):
    series = (mackey_glass(1000)[850:] - data.scale.mean[0]) / data.scale.deviation[0]
    windows = np.lib.stride_tricks.sliding_window_view(series, 60)
    error = windows[:, 48:] - windows[:, 47:48]
    found = data.baseline()
    assert found["test/mse"] == pytest.approx((error**2).mean(), rel=1e-4)
    assert found["test/rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)
    assert found["test/mae"] == pytest.approx(np.abs(error).mean(), rel=1e-4)
    assert found["test/mse"] > 0.5  # of a variance of 1


def test_encode_uses_the_last_values_of_an_input(data, tmp_path):
    values = [f"{v:.6f}" for v in mackey_glass(60)]
    for header in ("", "x\n"):
        (tmp_path / "past.csv").write_text(header + "\n".join(values) + "\n")
        from_file = data.encode([str(tmp_path / "past.csv")])
        assert torch.equal(from_file.x, data.encode([",".join(values[-48:])]).x)
        assert torch.equal(from_file.x, data.encode([",".join(values)]).x)
    expected = (np.array(values[-48:], dtype=float) - data.scale.mean[0]) / data.scale.deviation[0]
    np.testing.assert_allclose(from_file.x[0, :, 0], expected, rtol=1e-5, atol=1e-6)


def test_example_inputs_are_in_the_test_split(data):
    series = mackey_glass(1000)
    for text in data.example_inputs(3):
        values = np.array(text.split(","), dtype=float)
        assert any(np.allclose(values, series[s : s + 48], atol=1e-6) for s in range(850, 953))


def test_forecasts_are_in_original_units(data):
    y = data.split("test").y[:2]
    predictions = data.decode_predictions([{"prediction": steps} for steps in y.tolist()])
    for i, prediction in enumerate(predictions):
        np.testing.assert_allclose(prediction["prediction"], mackey_glass(1000)[850 + i + 48 : 850 + i + 60], rtol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\n2\n3\n", "3 values, but the model needs 48"),
        ("1,2\n" * 50, r"past.csv, row 1: 2 columns where 1 are expected: x"),
        ("1\n" * 47 + "one\n", r"past.csv, row 48, column 1 \(x\): 'one' is not a number"),
    ],
)
def test_error_names_the_invalid_part_of_a_file(data, tmp_path, content, message):
    (tmp_path / "past.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        data.encode([str(tmp_path / "past.csv")])


@pytest.mark.parametrize("text", ["1,2,3", "5"])
def test_short_inputs_are_rejected(data, text):
    with pytest.raises(UserError, match="but the model needs 48"):
        data.encode([text])


@pytest.mark.parametrize("settings", [{"length": 200}, {"val_fraction": 0.01}, {"window": 500}, {"horizon": 300}])
def test_splits_shorter_than_a_window_are_rejected(settings):
    with pytest.raises(UserError, match="is too short for a window"):
        MackeyGlass(**({"length": 1000} | settings)).setup()
