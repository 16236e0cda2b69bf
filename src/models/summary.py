"""Summary of a model: parameters, multiply-adds and memory by layer."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from src.core.batches import Batch
from src.core.tables import new_table
from src.models.receptive_field import Field, ReceptiveFields, tensors_in


@dataclass(frozen=True)
class Row:
    """One layer.

    Args:
        name: its path in the model, such as ``layers.0``; empty for the whole model.
        type: its class.
        output_shape: output shape of its last call for a batch of one; None if it returns no tensor or was not called.
        parameters: number of trainable and frozen parameters, including those of its sublayers.
        multiply_adds: for one example, including those of its sublayers; None if it was not called.
        field: receptive field of one unit of its output; None from the first layer on that sees the whole input.
    """

    name: str
    type: str
    output_shape: tuple[int, ...] | None
    parameters: int
    multiply_adds: int | None
    field: Field | None = None

    @property
    def depth(self) -> int:
        return self.name.count(".") + 1 if self.name else 0


@dataclass(frozen=True)
class Summary:
    """Every layer of a model, and the totals.

    Args:
        rows: the layers in the order of their definition; the first is the whole model.
        parameters: number of parameters; shared ones count once.
        trainable: number of trainable parameters.
        multiply_adds: for one example, in matrix products, convolutions and attention; other operations are not counted.
    """

    rows: tuple[Row, ...]
    parameters: int
    trainable: int
    multiply_adds: int

    def table(self, limit: int = 20) -> Table:
        """Return a table of the layers; for images also with their receptive field and jump, in pixels along a side.

        Args:
            limit: maximum number of rows. The table has as many levels as fit, at least two; a last row counts the layers
                that are left out.
        """
        spatial = any(row.field and max(row.field.size) > 1 for row in self.rows)
        numbers = ("parameters", "multiply-adds", *(("field", "jump") if spatial else ()))
        table = new_table("layer", "type", "output shape", *numbers, title=self.headline(), numbers=numbers)
        depths = sorted({row.depth for row in self.rows if row.depth > 2})
        levels = ([row for row in self.rows if 0 < row.depth <= depth] for depth in (2, *depths))
        rows = next(levels)
        rows = max((level for level in levels if len(level) <= limit), key=len, default=rows)
        if len(rows) > limit:
            rows = rows[: limit - 1]
        for row in rows:
            shape = "-" if row.output_shape is None else "×".join(map(str, row.output_shape)) or "scalar"
            multiply_adds = "-" if row.multiply_adds is None else f"{row.multiply_adds:,}"
            cells = [row.name, row.type, shape, f"{row.parameters:,}", multiply_adds]
            if spatial:
                cells += [_sides(row.field.size), _sides(row.field.jump)] if row.field else ["-", "-"]
            table.add_row(*cells)
        omitted = len(self.rows) - 1 - len(rows)
        if omitted:
            table.add_row("…", f"{omitted} more layers")
        return table

    def headline(self) -> str:
        """Return the totals in one line."""
        frozen = self.parameters - self.trainable
        frozen_note = f" ({frozen:,} frozen)" if frozen else ""
        name = self.rows[0].type
        return f"{name}: {self.parameters:,} parameters{frozen_note}, {self.multiply_adds:,} multiply-adds an example"


def summarize(model: nn.Module, batch: Batch) -> Summary:
    """Run one example through a model and return the parameters, shapes and multiply-adds of its layers.

    The model, its mode and all random generators are unchanged afterwards.

    Args:
        model: its `forward` takes the inputs of the batch.
        batch: a training batch on the model's device; its first example is used.
    """
    example = type(batch)(*(tensor[:1] for tensor in batch))
    modules = dict(model.named_modules())
    shapes: dict[str, tuple[int, ...] | None] = {}
    fields: dict[str, Field | None] = {}
    flops: dict[str, int] = {}
    receptive_fields = ReceptiveFields(example.inputs[0])
    counter = FlopCounterMode(display=False)
    with _undisturbed(model), _plain_kernels(), counter, receptive_fields, ExitStack() as hooks:
        for name, module in modules.items():
            starts: list[int] = []

            def before_forward(*_: Any, starts: list[int] = starts) -> None:
                starts.append(counter.get_total_flops())

            def after_forward(_m: Any, _i: Any, output: Any, name: str = name, starts: list[int] = starts) -> None:
                flops[name] = flops.get(name, 0) + counter.get_total_flops() - starts.pop()
                shapes[name] = next((tuple(tensor.shape) for tensor in tensors_in(output)), None)
                fields[name] = receptive_fields.field_of(output)

            for handle in (
                module.register_forward_pre_hook(before_forward),
                module.register_forward_hook(after_forward),
            ):
                hooks.callback(handle.remove)
        model(*example.inputs)
    rows = tuple(
        Row(
            name=name,
            type=type(module).__name__,
            output_shape=shapes.get(name),
            parameters=sum(p.numel() for p in module.parameters()),
            multiply_adds=flops[name] // 2 if name in flops else None,
            field=fields.get(name),
        )
        for name, module in modules.items()
    )
    return Summary(
        rows=rows,
        parameters=rows[0].parameters,
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        multiply_adds=flops[""] // 2,
    )


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation with frozen parameters, and restore modes, parameters and random generators afterwards.

    Under ``torch.no_grad`` alone, a view of a parameter claims to require a gradient, and the FLOP counter fails.
    """
    training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    model.eval().requires_grad_(False)
    try:
        with torch.random.fork_rng(devices=sorted(devices, key=str)):
            yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Disable fused kernels, which the FLOP counter does not know and would count as nothing."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore")
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))  # LSTM on a CPU
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # recurrent layers on a GPU
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _sides(sides: tuple[int, ...]) -> str:
    """Return ``3`` for a square of 3×3, else ``3×5``."""
    return "×".join(map(str, sides[:1] if len(set(sides)) == 1 else sides))


def parameter_bytes(model: torch.nn.Module) -> int:
    """Return the memory of a model's parameters in bytes."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
