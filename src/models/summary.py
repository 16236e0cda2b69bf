"""Summary of a model: parameters, multiply-adds and memory by layer."""

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

from src.core.batches import Batch
from src.core.tables import new_table
from src.models.receptive_field import Field, ReceptiveFields


@dataclass(frozen=True)
class Row:
    """One layer.

    Args:
        name: its path in the model, such as ``layers.0``; empty for the whole model.
        type: its class.
        output_shape: of its last call for a batch of one; None if it gives out no tensor or was not called.
        parameters: numbers to learn or frozen, with those of the layers in it.
        multiply_adds: for one example, with those of the layers in it; None if it was not called.
        field: what one unit of its output sees of an image or series, until a layer sees all of it.
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
        parameters: numbers in all parameters; shared ones count once.
        trainable: those of them that are learned.
        multiply_adds: for one example, in matrix products, convolutions and attention; other work is not counted.
    """

    rows: tuple[Row, ...]
    parameters: int
    trainable: int
    multiply_adds: int

    def table(self, limit: int = 20) -> Table:
        """Return a table of the layers; for images also their receptive field and jump, in pixels of a side.

        Args:
            limit: the most rows. As many levels are shown as fit, at least two; a last row says how many layers are
                left out.
        """
        spatial = any(row.field and max(row.field.size) > 1 for row in self.rows)
        numbers = ("parameters", "multiply-adds", *(("field", "jump") if spatial else ()))
        table = new_table("layer", "type", "output shape", *numbers, title=self.headline(), numbers=numbers)
        depths = sorted({row.depth for row in self.rows if row.depth > 2})
        levels = ([row for row in self.rows if 0 < row.depth <= depth] for depth in (2, *depths))
        shown = next(levels)
        shown = max((level for level in levels if len(level) <= limit), key=len, default=shown)
        if len(shown) > limit:
            shown = shown[: limit - 1]
        for row in shown:
            shape = "-" if row.output_shape is None else "×".join(map(str, row.output_shape)) or "scalar"
            work = "-" if row.multiply_adds is None else f"{row.multiply_adds:,}"
            seen = [_sides(row.field.size), _sides(row.field.jump)] if row.field else ["-", "-"]
            table.add_row(row.name, row.type, shape, f"{row.parameters:,}", work, *(seen if spatial else ()))
        hidden = len(self.rows) - 1 - len(shown)
        if hidden:
            table.add_row("…", f"{hidden} more layers")
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
    seen: dict[str, Field | None] = {}
    work: dict[str, int] = {}
    fields = ReceptiveFields(example.inputs[0])
    counter = FlopCounterMode(display=False)
    with _undisturbed(model), _plain_kernels(), counter, fields, ExitStack() as hooks:
        for name, module in modules.items():
            before: list[int] = []

            def enter(*_: Any, before: list[int] = before) -> None:
                before.append(counter.get_total_flops())

            def leave(_m: Any, _i: Any, output: Any, name: str = name, before: list[int] = before) -> None:
                work[name] = work.get(name, 0) + counter.get_total_flops() - before.pop()
                shapes[name] = _shape(output)
                seen[name] = fields.of(output)

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
            field=seen.get(name),
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
    """Evaluate with frozen parameters, and leave these, modes and random generators as they were.

    Under ``torch.no_grad`` alone, a view of a parameter claims to need a gradient, and the counter of operations fails.
    """
    training = [module for module in model.modules() if module.training]
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    model.eval().requires_grad_(False)
    try:
        with torch.random.fork_rng(devices=sorted(devices, key=str)):
            yield
    finally:
        for module in training:
            module.training = True
        for parameter in learned:
            parameter.requires_grad_(True)


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


def _sides(sides: tuple[int, ...]) -> str:
    """Return ``3`` for a square of 3×3, else ``3×5``."""
    return "×".join(map(str, sides[:1] if len(set(sides)) == 1 else sides))


def bytes_of(model: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
