"""The summary of a model: what each layer gives out, its parameters, and the multiply-adds that it takes."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from src.batches import Batch
from src.tracking.console import new_table


@dataclass(frozen=True)
class Row:
    """One layer.

    Args:
        name: its path in the model, such as ``layers.0``; empty for the whole model.
        type: its class.
        output_shape: of its last call for a batch of one; None if it gives out no tensor or was not called.
        parameters: numbers to learn or frozen, with those of the layers in it.
        multiply_adds: for one example, with those of the layers in it; None if it was not called.
    """

    name: str
    type: str
    output_shape: tuple[int, ...] | None
    parameters: int
    multiply_adds: int | None

    @property
    def depth(self) -> int:
        return self.name.count(".") + 1 if self.name else 0


@dataclass(frozen=True)
class Summary:
    """Every layer of a model, and the totals.

    Args:
        rows: the layers in the order of their definition; the first is the whole model.
        parameters: numbers in all parameters; shared ones count once.
        trainable: those of them that are learned.
        multiply_adds: for one example, in matrix products, convolutions and attention; other work is not counted.
    """

    rows: tuple[Row, ...]
    parameters: int
    trainable: int
    multiply_adds: int

    def table(self, depth: int = 2, limit: int = 30) -> Table:
        """Return a table of the upper layers.

        Args:
            depth: how deep into the model.
            limit: the most rows; the last one says how many are left out.
        """
        table = new_table(
            "layer",
            "type",
            "output shape",
            "parameters",
            "multiply-adds",
            title=self.headline(),
            numbers=("parameters", "multiply-adds"),
        )
        shown = [row for row in self.rows if 0 < row.depth <= depth]
        if len(shown) > limit:
            shown = shown[: limit - 1]
        for row in shown:
            shape = "-" if row.output_shape is None else "×".join(map(str, row.output_shape)) or "scalar"
            work = "-" if row.multiply_adds is None else f"{row.multiply_adds:,}"
            table.add_row(row.name, row.type, shape, f"{row.parameters:,}", work)
        hidden = len(self.rows) - 1 - len(shown)
        if hidden:
            table.add_row("…", f"{hidden} more layers", "", "", "")
        return table

    def headline(self) -> str:
        """Return the totals in a line."""
        frozen = self.parameters - self.trainable
        kept = f" ({frozen:,} frozen)" if frozen else ""
        name = self.rows[0].type
        return f"{name}: {self.parameters:,} parameters{kept}, {self.multiply_adds:,} multiply-adds an example"


def summarize(model: nn.Module, batch: Batch) -> Summary:
    """Run one example through a model and say what each layer did.

    The model, its mode and all random generators are afterwards as they were before.

    Args:
        model: its `forward` takes the inputs of the batch.
        batch: examples as training sees them, on the model's device; the first one is used.
    """
    example = type(batch)(*(tensor[:1] for tensor in batch))
    modules = dict(model.named_modules())
    shapes: dict[str, tuple[int, ...] | None] = {}
    work: dict[str, int] = {}
    with _undisturbed(model), _plain_kernels(), FlopCounterMode(display=False) as counter, ExitStack() as hooks:
        for name, module in modules.items():
            before: list[int] = []

            def enter(*_: Any, before: list[int] = before) -> None:
                before.append(counter.get_total_flops())

            def leave(_m: Any, _i: Any, output: Any, name: str = name, before: list[int] = before) -> None:
                work[name] = work.get(name, 0) + counter.get_total_flops() - before.pop()
                shapes[name] = _shape(output)

            for handle in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave)):
                hooks.callback(handle.remove)
        model(*example.inputs)
    rows = tuple(
        Row(
            name=name,
            type=type(module).__name__,
            output_shape=shapes.get(name),
            parameters=sum(p.numel() for p in module.parameters()),
            multiply_adds=work[name] // 2 if name in work else None,
        )
        for name, module in modules.items()
    )
    return Summary(
        rows=rows,
        parameters=rows[0].parameters,
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        multiply_adds=work[""] // 2,
    )


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate without gradients, and leave modes and random generators as they were."""
    training = [module for module in model.modules() if module.training]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    model.eval()
    try:
        with torch.random.fork_rng(devices=sorted(devices, key=str)), torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Switch kernels off that do in one call what the counter knows only in parts: they would count as nothing."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore")
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))  # LSTM on a CPU
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # recurrent layers on a GPU
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _shape(output: Any) -> tuple[int, ...] | None:
    """Return the shape of a layer's output, or of the first tensor in it."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, (tuple, list)):
        return next((shape for item in output if (shape := _shape(item)) is not None), None)
    return None
