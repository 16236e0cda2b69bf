"""The range test: the rates that it walks through, what it suggests, and that a run beside it stays as it was."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from src.config.compose import compose
from src.config.validate import check
from src.diagnostics.learning_rate_range_test import SKIPPED, _suggestion, range_test
from src.training.run import run

Words = Callable[..., list[str]]


@pytest.mark.req("H3")
@pytest.mark.parametrize("centre", [-3.0, -1.5])
def test_the_suggestion_is_where_the_loss_falls_fastest_per_decade(centre: float) -> None:
    """A loss that falls as a logistic curve of log10 of the rate falls fastest at its centre, and then explodes."""
    logs = np.linspace(-6, 1, 200)
    losses = 2.3 - 1.5 / (1 + np.exp(-3 * (logs - centre))) + np.exp(8 * (logs - 0.8))
    found = _suggestion((10**logs).tolist(), [*losses[:-1].tolist(), math.inf])
    assert found is not None and math.log10(found) == pytest.approx(centre, abs=0.05)
    rising = (1 + logs**2 + 12 * logs).tolist()
    assert _suggestion((10**logs).tolist(), rising) is None


@pytest.mark.req("H3")
def test_it_walks_through_the_rates_and_stops_when_the_loss_explodes(fast: Words) -> None:
    """Rates grow by the same factor from step to step; SGD on least squares diverges beyond 2/λ_max, so no later."""
    config = check(compose(fast("datamodule=diabetes", "model=mlp", "model.hidden_sizes=[]", "optimizer=sgd")))
    random = torch.get_rng_state()
    found = range_test(config, 1e-5, 1e3, 80)
    assert torch.equal(torch.get_rng_state(), random)
    ratios = np.diff(np.log(found.rates))
    assert found.rates[0] == pytest.approx(1e-5) and ratios[2:] == pytest.approx(math.log(1e8) / 80)
    assert SKIPPED < len(found.rates) < 80 and found.suggestion is not None
    from src.training.build import build_data

    data = build_data(config)
    data.prepare_data()
    data.setup()
    x = np.concatenate([batch.inputs[0].flatten(1).double().numpy() for batch in data.loader("train")])
    design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    largest = np.linalg.eigvalsh(2 * design.T @ design / len(design))[-1]
    assert found.suggestion < 2 / largest * 3, "where it falls it does not yet diverge"


@pytest.mark.req("H3")
def test_a_run_beside_it_is_not_disturbed(fast: Words) -> None:
    words = fast("model=mlp", "regularization=dropout", "trainer.max_epochs=2")
    alone = run(words, verbose=False)
    beside = run([*words, "callbacks=lr_finder", "callbacks.lr_finder.steps=40"], verbose=False)
    assert beside.metrics == alone.metrics
    one, two = (torch.load(r.folder / "checkpoints" / "last.ckpt", weights_only=True) for r in (alone, beside))
    assert all(torch.equal(one["state_dict"][name], two["state_dict"][name]) for name in one["state_dict"])
    record = json.loads((beside.folder / "run.json").read_text())
    assert record["suggested_lr"] == range_test(check(compose(words)), steps=40).suggestion
    assert (beside.folder / "plots" / "learning_rate.png").stat().st_size > 10_000
    assert not list(beside.folder.glob("**/.lr_find*"))
