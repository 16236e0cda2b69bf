"""Activation checkpointing: bitwise equal gradients in less memory."""

import json
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from src.core.data_spec import DataSpec
from src.models.resnet import ResNet
from src.models.transformer import Transformer
from src.training.run import run

IMAGES = DataSpec("classification", "image", (3, 16, 16), (10,))
TOKENS = {"vocabulary_size": 20, "padding_id": 0, "start_id": 1, "end_id": 2}
TEXT = DataSpec("language_modelling", "tokens", (12,), (20,), **TOKENS)
PAIRS = DataSpec("translation", "tokens", (12,), (20,), target_length=9, **TOKENS)

CASES: dict[str, tuple[Callable[..., nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "resnet": (
        lambda **options: ResNet(IMAGES, 4, (8, 16), dropout=0.2, stochastic_depth=0.4, **options),
        lambda: (torch.randn(32, 3, 16, 16),),
    ),
    "encoder": (
        lambda **options: Transformer(IMAGES, 32, 4, 4, 64, dropout=0.2, stochastic_depth=0.4, **options),
        lambda: (torch.randn(32, 3, 16, 16),),
    ),
    "decoder": (
        lambda **options: Transformer(TEXT, 32, 4, 4, 64, norm_first=True, dropout=0.2, **options),
        lambda: (torch.randint(3, 20, (32, 12)),),
    ),
    "encoder-decoder": (
        lambda **options: Transformer(PAIRS, 32, 4, 4, 64, dropout=0.2, **options),
        lambda: (torch.randint(0, 20, (32, 12)), torch.randint(3, 20, (32, 9))),
    ),
}


class Peak(TorchDispatchMode):
    """Records the peak of the bytes of all tensors that are created in this context."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in before:
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self.known:
            return
        size = storage.nbytes()
        self.known.add(id(storage))
        self.now += size
        self.peak = max(self.peak, self.now)

        def on_free(key: int = id(storage)) -> None:
            self.known.discard(key)
            self.now -= size

        weakref.finalize(storage, on_free)


def step(case: str, checkpointing: bool) -> tuple[list[Any], int]:
    """Run a forward and a backward pass, and return loss, random state, gradients and buffers, and the peak memory."""
    make, draw = CASES[case]
    torch.manual_seed(0)
    model = make(checkpoint_activations=checkpointing).train()
    inputs = draw()
    with Peak() as memory:
        loss = model(*inputs).square().mean()
        loss.backward()
    state = [loss, torch.get_rng_state(), *(p.grad for p in model.parameters()), *model.buffers()]
    return state, memory.peak


@pytest.mark.parametrize("case", CASES)
def test_checkpointed_step_is_equal_and_needs_less_memory(case: str) -> None:
    expected, ordinary_peak = step(case, checkpointing=False)
    state, peak = step(case, checkpointing=True)
    assert len(state) == len(expected)
    for tensor, other in zip(state, expected, strict=True):
        assert torch.equal(tensor, other)
    assert peak < 0.6 * ordinary_peak


@pytest.mark.parametrize(
    "overrides", [["model=resnet", "regularization=stochastic_depth"], ["model=transformer"]], ids=" ".join
)
def test_checkpointed_run_is_equal(fast: Callable[..., list[str]], overrides: list[str]) -> None:
    rows = []
    for checkpointing in ("false", "true"):
        result = run(fast(*overrides, f"model.checkpoint_activations={checkpointing}"), verbose=False)
        lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
        record = json.loads((result.folder / "run.json").read_text())
        rows.append([record["config_hash"], *({k: v for k, v in line.items() if k != "time"} for line in lines)])
    assert rows[0] == rows[1]
