"""Batch-size search: it finds the largest batch that fits, stays within its budget, and does not change the run."""

import json
from collections.abc import Callable

import pytest
import torch

from src.config.compose import compose
from src.config.validate import check
from src.core.errors import UserError
from src.diagnostics.batch_size_search import FIRST, RESOLUTION, BatchSizes, Trial, find_batch_sizes, sizes_to_try
from src.training.run import run

MakeOverrides = Callable[..., list[str]]


@pytest.mark.req("H3")
@pytest.mark.parametrize("maximum", [1, 7, 8, 100, 1259, 60_000])
@pytest.mark.parametrize("limit", [0, 1, 3, 8, 9, 100, 700, 1259, 40_000])
def test_the_search_approaches_the_largest_size_that_fits(limit: int, maximum: int) -> None:
    tried: list[int] = []
    for size in sizes_to_try(lambda size: size <= limit, FIRST, maximum):
        tried.append(size)
    assert len(tried) == len(set(tried)) < 25 and max(tried) <= maximum
    best = max((size for size in tried if size <= limit), default=0)
    optimum = min(limit, maximum)
    assert best <= optimum <= best + max(1, best // RESOLUTION) - (best < optimum)
    assert all(size <= 2 * max(limit, FIRST) for size in tried), "sizes far beyond the limit must not be tried"


@pytest.mark.req("H3")
def test_the_smallest_fast_size_is_suggested() -> None:
    trials = tuple(Trial(size, rate, 10**6) for size, rate in ((8, 100.0), (16, 190.0), (32, 230.0), (64, 250.0)))
    result = BatchSizes(trials, 10**9, "")
    assert (result.suggestion, result.largest) == (32, 64)


@pytest.mark.req("H3")
@pytest.mark.slow
def test_the_search_does_not_change_the_run(fast: MakeOverrides, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = fast("model=mlp", "regularization=dropout", "trainer.max_epochs=2")
    plain = run(overrides, verbose=False)
    with_search = run([*overrides, "callbacks=batch_size_finder"], verbose=False)
    assert with_search.metrics == plain.metrics
    one, two = (torch.load(r.folder / "checkpoints" / "last.ckpt", weights_only=True) for r in (plain, with_search))
    assert all(torch.equal(one["state_dict"][name], two["state_dict"][name]) for name in one["state_dict"])
    record = json.loads((with_search.folder / "run.json").read_text())
    sizes = [trial["batch_size"] for trial in record["batch_sizes"]]
    assert sizes == [8, 16, 32, 64, 128, 256, 512, 1024, 1259] and record["largest_batch_size"] == 1259
    assert record["suggested_batch_size"] in sizes
    assert all(trial["rate"] > 0 and trial["peak"] > 10**8 for trial in record["batch_sizes"])
    output = capsys.readouterr().out
    assert "1,259" in output and "the whole training split" in output and "datamodule.batch_size=" in output


@pytest.mark.req("H3")
@pytest.mark.slow
def test_the_search_stays_within_its_budget(fast: MakeOverrides, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a few hundred examples of a wide network fit into a small share of the memory; twice as many do not."""
    from src.core.resources import available_memory

    wide = ["model=cnn", "model.channels=[256,256]", "model.pool=none", "datamodule=digits", "trainer=cpu"]
    config = check(compose(fast(*wide)))
    result = find_batch_sizes(config, share=1.5e8 / available_memory())
    assert result.stop_reason == "more does not fit"
    assert 8 <= result.largest < 1259
    assert all(trial.peak <= result.budget for trial in result.trials)
    one, two = result.trials[0], result.trials[-1]
    bytes_per_example = (two.peak - one.peak) / (two.batch_size - one.batch_size)
    assert two.peak + bytes_per_example * two.batch_size > result.budget, "twice the largest must not fit"


@pytest.mark.slow
def test_too_little_memory_raises_a_user_error(fast: MakeOverrides) -> None:
    with pytest.raises(UserError, match="not even a batch of 1 fits"):
        find_batch_sizes(check(compose(fast("model=mlp"))), share=1e-9)
