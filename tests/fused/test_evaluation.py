"""What is measured for all members of a group."""

import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from src.config.compose import compose
from src.config.validate import check
from src.fused.evaluation import Measuring
from src.training.experiment import prepared_data, seeded_model


class Member(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]


def test_outputs_do_not_wait_for_the_end_of_the_split(fast: Callable[..., list[str]]) -> None:
    """Of a language model they would be logits of the whole split, for all members."""
    config = check(compose(fast("model=mlp", "datamodule=diabetes")))
    members = [Member(model=seeded_model(config, prepared_data(config))) for _ in range(2)]
    measuring = Measuring(members)  # type: ignore[arg-type]
    outputs, targets, alive = [], [], []
    for size in (5, 3):
        outputs.append(torch.randn(2, size, 1))
        targets.append(torch.randn(size, 1))
        shown = outputs[-1].clone()
        alive.append(weakref.ref(shown))
        measuring.add(members, shown, targets[-1])  # type: ignore[arg-type]
        del shown
    assert [reference() for reference in alive] == [None, None]
    truth = torch.cat(targets).double()
    for answers, meter in zip(torch.cat(outputs, 1).double(), measuring.meters(members), strict=True):  # type: ignore[arg-type]
        expected = (answers - truth).square().mean().item()
        strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=lambda value, reduce_op: value)
        assert float(meter.compute(strategy)["loss"]) == pytest.approx(expected, rel=1e-6)
