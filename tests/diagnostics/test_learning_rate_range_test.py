"""Learning-rate range test: its rates and its suggestion; it does not change the run."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from src.config.compose import compose
from src.config.validate import check
from src.diagnostics.learning_rate_range_test import SKIPPED_STEPS, _suggestion, range_test
from src.training.run import run

MakeOverrides = Callable[..., list[str]]


@pytest.mark.req("H3")
@pytest.mark.parametrize("centre", [-3.0, -1.5])
def test_the_suggestion_is_where_the_loss_falls_fastest_per_decade(centre: float) -> None:
    """A loss that falls as a logistic curve of log10 of the rate falls fastest at its centre, and then explodes."""
    logs = np.linspace(-6, 1, 200)
    losses = 2.3 - 1.5 / (1 + np.exp(-3 * (logs - centre))) + np.exp(8 * (logs - 0.8))
    suggestion = _suggestion((10**logs).tolist(), [*losses[:-1].tolist(), math.inf])
    assert suggestion is not None and math.log10(suggestion) == pytest.approx(centre, abs=0.05)
    rising = (1 + logs**2 + 12 * logs).tolist()
    assert _suggestion((10**logs).tolist(), rising) is None


@pytest.mark.req("H3")
def test_rates_grow_geometrically_until_the_loss_explodes(fast: MakeOverrides) -> None:
    """Rates grow by the same factor from step to step; SGD on least squares diverges beyond 2/λ_max, so no later."""
    config = check(compose(fast("datamodule=diabetes", "model=mlp", "model.hidden_sizes=[]", "optimizer=sgd")))
    rng_state = torch.get_rng_state()
    result = range_test(config, 1e-5, 1e3, 80)
    assert torch.equal(torch.get_rng_state(), rng_state)
    ratios = np.diff(np.log(result.rates))
    assert result.rates[0] == pytest.approx(1e-5) and ratios[2:] == pytest.approx(math.log(1e8) / 80)
    assert SKIPPED_STEPS < len(result.rates) < 80 and result.suggestion is not None
    from src.training.build import build_data

    data = build_data(config)
    data.prepare_data()
    data.setup()
    x = np.concatenate([batch.inputs[0].flatten(1).double().numpy() for batch in data.loader("train")])
    design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    largest = np.linalg.eigvalsh(2 * design.T @ design / len(design))[-1]
    assert result.suggestion < 2 / largest * 3, "the suggestion must be below the diverging rates"


@pytest.mark.req("H3")
def test_the_range_test_does_not_change_the_run(fast: MakeOverrides) -> None:
    overrides = fast("model=mlp", "regularization=dropout", "trainer.max_epochs=2")
    plain = run(overrides, verbose=False)
    with_test = run([*overrides, "callbacks=lr_finder", "callbacks.lr_finder.steps=40"], verbose=False)
    assert with_test.metrics == plain.metrics
    one, two = (torch.load(r.folder / "checkpoints" / "last.ckpt", weights_only=True) for r in (plain, with_test))
    assert all(torch.equal(one["state_dict"][name], two["state_dict"][name]) for name in one["state_dict"])
    record = json.loads((with_test.folder / "run.json").read_text())
    assert record["suggested_lr"] == range_test(check(compose(overrides)), steps=40).suggestion
    assert (with_test.folder / "plots" / "learning_rate.png").stat().st_size > 10_000
    assert not list(with_test.folder.glob("**/.lr_find*"))
