"""The batch-size finder: it walks to the largest batch that fits, keeps to its budget, and leaves the run as it was."""

import json
from collections.abc import Callable

import pytest
import torch

from src.config.compose import compose
from src.config.validate import check
from src.core.errors import UserError
from src.diagnostics.batch_size_search import FIRST, RESOLUTION, BatchSizes, Trial, find_batch_sizes, sizes_to_try
from src.training.run import run

Words = Callable[..., list[str]]


@pytest.mark.req("H3")
@pytest.mark.parametrize("most", [1, 7, 8, 100, 1259, 60_000])
@pytest.mark.parametrize("limit", [0, 1, 3, 8, 9, 100, 700, 1259, 40_000])
def test_it_comes_close_to_the_largest_that_fits(limit: int, most: int) -> None:
    tried: list[int] = []
    for size in sizes_to_try(lambda size: size <= limit, FIRST, most):
        tried.append(size)
    assert len(tried) == len(set(tried)) < 25 and max(tried) <= most
    best = max((size for size in tried if size <= limit), default=0)
    truth = min(limit, most)
    assert best <= truth <= best + max(1, best // RESOLUTION) - (best < truth)
    assert all(size <= 2 * max(limit, FIRST) for size in tried), "it never goes far beyond what fits"


@pytest.mark.req("H3")
def test_it_suggests_the_smallest_that_is_fast() -> None:
    trials = tuple(Trial(size, rate, 10**6) for size, rate in ((8, 100.0), (16, 190.0), (32, 230.0), (64, 250.0)))
    found = BatchSizes(trials, 10**9, "")
    assert (found.suggestion, found.largest) == (32, 64)


@pytest.mark.req("H3")
@pytest.mark.slow
def test_a_run_beside_it_is_not_disturbed(fast: Words, capsys: pytest.CaptureFixture[str]) -> None:
    words = fast("model=mlp", "regularization=dropout", "trainer.max_epochs=2")
    alone = run(words, verbose=False)
    beside = run([*words, "callbacks=batch_size_finder"], verbose=False)
    assert beside.metrics == alone.metrics
    one, two = (torch.load(r.folder / "checkpoints" / "last.ckpt", weights_only=True) for r in (alone, beside))
    assert all(torch.equal(one["state_dict"][name], two["state_dict"][name]) for name in one["state_dict"])
    record = json.loads((beside.folder / "run.json").read_text())
    sizes = [trial["batch_size"] for trial in record["batch_sizes"]]
    assert sizes == [8, 16, 32, 64, 128, 256, 512, 1024, 1259] and record["largest_batch_size"] == 1259
    assert record["suggested_batch_size"] in sizes
    assert all(trial["rate"] > 0 and trial["peak"] > 10**8 for trial in record["batch_sizes"])
    said = capsys.readouterr().out
    assert "1,259" in said and "the whole training split" in said and "datamodule.batch_size=" in said


@pytest.mark.req("H3")
@pytest.mark.slow
def test_it_keeps_to_its_budget(fast: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide network, of whose activations a few hundred fit into a small share of the memory; twice as many would not."""
    from src.core.resources import available_memory

    wide = ["model=cnn", "model.channels=[256,256]", "model.pool=none", "datamodule=digits", "trainer=cpu"]
    config = check(compose(fast(*wide)))
    found = find_batch_sizes(config, share=1.5e8 / available_memory())
    assert found.ended == "more does not fit"
    assert 8 <= found.largest < 1259
    assert all(trial.peak <= found.budget for trial in found.trials)
    one, two = found.trials[0], found.trials[-1]
    an_example = (two.peak - one.peak) / (two.batch_size - one.batch_size)
    assert two.peak + an_example * two.batch_size > found.budget, "twice the largest would be too much"


@pytest.mark.slow
def test_no_memory_is_a_users_error(fast: Words) -> None:
    with pytest.raises(UserError, match="not even a batch of 1 fits"):
        find_batch_sizes(check(compose(fast("model=mlp"))), share=1e-9)
