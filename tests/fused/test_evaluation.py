"""Metrics of all members of a group."""

import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from src.config.compose import compose
from src.config.validate import check
from src.fused.evaluation import GroupMetrics
from src.training.experiment import build_seeded_model, prepare_datamodule


class Member(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]


def test_outputs_are_released_before_the_end_of_the_split(fast: Callable[..., list[str]]) -> None:
    """For a language model they would be the logits of the whole split for all members."""
    config = check(compose(fast("model=mlp", "datamodule=diabetes")))
    members = [Member(model=build_seeded_model(config, prepare_datamodule(config))) for _ in range(2)]
    metrics = GroupMetrics(members)  # type: ignore[arg-type]
    outputs, targets, alive = [], [], []
    for size in (5, 3):
        outputs.append(torch.randn(2, size, 1))
        targets.append(torch.randn(size, 1))
        batch_outputs = outputs[-1].clone()
        alive.append(weakref.ref(batch_outputs))
        metrics.update(members, batch_outputs, targets[-1])  # type: ignore[arg-type]
        del batch_outputs
    assert [reference() for reference in alive] == [None, None]
    all_targets = torch.cat(targets).double()
    for member_outputs, meter in zip(torch.cat(outputs, 1).double(), metrics.meters(members), strict=True):  # type: ignore[arg-type]
        expected = (member_outputs - all_targets).square().mean().item()
        strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=lambda value, reduce_op: value)
        assert float(meter.compute(strategy)["loss"]) == pytest.approx(expected, rel=1e-6)
