"""Trained models as programs that run without Gridlight: torch.export and ONNX, checked against the model."""

import contextlib
import io
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from src.core.batches import Batch, LabelledBatch
from src.core.errors import UserError
from src.core.files import replace_below

if TYPE_CHECKING:
    from src.training.inference import LoadedModel

FORMATS = ("torch", "onnx")
FILES = {"torch": "model.pt2", "onnx": "model.onnx"}

EXAMPLES = 64
"""Largest number of examples of the test split on which outputs are compared."""

TOLERANCE = 1e-4
"""Largest difference of an output, relative to the largest output: the order of float32 sums differs."""


@dataclass(frozen=True)
class Exported:
    """An exported program that was compared with the model.

    Args:
        format: ``torch`` or ``onnx``.
        file: file of the program.
        inputs: shape of each input; dimensions of variable size are names.
        difference: largest difference from the model's outputs.
        examples: number of compared examples of the test split.
    """

    format: str
    file: Path
    inputs: dict[str, list[str]]
    difference: float
    examples: int


def export(loaded: "LoadedModel", folder: Path, formats: Sequence[str] = FORMATS) -> list[Exported]:
    """Write a trained model as programs, and compare their outputs with the model's on examples of the test split.

    Batches may have any size; texts and translations may have any length.

    Args:
        loaded: model with its data.
        folder: folder for the files; a link at the path of a file is replaced.
        formats: formats of `FORMATS`.

    Raises:
        UserError: if the model cannot be exported, if a package is missing, or if outputs differ.
    """
    if "onnx" in formats:
        _check_onnx()
    model = loaded.model.eval()
    name = type(model).__name__
    batches = _examples(loaded)
    inputs = tuple(batches[0].inputs)
    names = _names(batches[0])
    with _quiet():
        try:
            program = torch.export.export(
                _FORWARD[len(inputs)](model), inputs, dynamic_shapes=_dynamic_shapes(batches[0]), strict=False
            )
        except Exception as error:
            padded = loaded.model.spec.inputs == "tokens" and loaded.model.spec.padding_id is not None
            hint = ". Perhaps it packs padded sequences by their lengths, which depends on the data" if padded else ""
            raise UserError(f"{name} cannot be exported: {_reason(error)}{hint}") from error
    folder.mkdir(parents=True, exist_ok=True)
    exported = []
    # The libraries follow links at the path they write to: they write into an empty folder, and the files are copied from it.
    with TemporaryDirectory() as scratch:
        for format in formats:
            file = Path(scratch) / FILES[format]
            with _quiet():
                try:
                    run = _WRITERS[format](program, names, file)
                except Exception as error:
                    raise UserError(f"{name} cannot be exported to {format}: {_reason(error)}") from error
            difference = max(_difference(model, run, batch, f"{name} as {format}") for batch in batches)
            with file.open("rb") as source, replace_below(folder, file.name) as target:
                shutil.copyfileobj(source, target)
            examples = sum(len(batch[0]) for batch in batches)
            exported.append(Exported(format, folder / file.name, _shapes(program, names), difference, examples))
    return exported


def _examples(loaded: "LoadedModel") -> list[Batch]:
    """Return two batches of different sizes; the first has more than one example, as export treats a size of 1 as fixed."""
    loaded.datamodule.prepare_data()
    loaded.datamodule.setup()
    split = loaded.datamodule.split("test")
    count = min(EXAMPLES, len(split[0]))
    batches = []
    for rows in (torch.arange(max(2, count - 3)) % count, torch.arange(max(0, count - 3), count)):
        batch = loaded.datamodule.collate(type(split)(*(tensor[rows] for tensor in split)))
        converted = (tensor.to(loaded.model.dtype) if tensor.is_floating_point() else tensor for tensor in batch)
        batches.append(type(batch)(*converted))
    return batches


def _names(batch: Batch) -> list[str]:
    """Return the names of the inputs: the fields of the batch that the model reads."""
    return list(batch._fields[: len(batch.inputs)])


def _dynamic_shapes(batch: Batch) -> tuple[dict[int, Any], ...]:
    """Return the dimensions of variable size: the batch and, for sequences, time."""
    size = torch.export.Dim("batch", min=1)
    shapes: list[dict[int, Any]] = []
    for tensor in batch.inputs:
        shape: dict[int, Any] = {0: size}
        if tensor.dim() > 1 and not isinstance(batch, LabelledBatch):
            shape[1] = torch.export.Dim.AUTO
        shapes.append(shape)
    return tuple(shapes)


def _shapes(program: Any, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the shape of each input, with a name for each variable size."""
    placeholders = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    shapes = (node.meta["val"].shape for node in placeholders)
    size_names = ("batch", "length", "size")
    return {
        name: [str(size) if isinstance(size, int) else size_names[min(dim, 2)] for dim, size in enumerate(shape)]
        for name, shape in zip(names, shapes, strict=True)
    }


@torch.no_grad()
def _difference(model: nn.Module, run: Callable[..., Tensor], batch: Batch, description: str) -> float:
    """Return the largest difference between the outputs of a model and of its program.

    Raises:
        UserError: if they differ by more than `TOLERANCE`.
    """
    expected, outputs = model(*batch.inputs), run(*batch.inputs)
    scale = float(expected.abs().max().clamp(min=1.0))
    difference = float((expected - outputs).abs().max())
    if outputs.shape != expected.shape or not difference <= TOLERANCE * scale:
        raise UserError(
            f"{description}: its outputs differ from the model's by {difference:.2g}, so nothing was written"
        )
    return difference


class _OneInput(nn.Module):
    """A model whose `forward` has exactly as many arguments as its data, as ONNX requires."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class _TwoInputs(_OneInput):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return self.model(x, y)


_FORWARD = {1: _OneInput, 2: _TwoInputs}


# ---- formats -----------------------------------------------------------------------------------------------------


def _write_torch(program: Any, names: Sequence[str], file: Path) -> Callable[..., Tensor]:
    torch.export.save(program, file)
    return torch.export.load(file).module()


def _write_onnx(program: Any, names: Sequence[str], file: Path) -> Callable[..., Tensor]:
    import onnxruntime

    # with example inputs, torch 2.13 adds a check of the input sizes, which it cannot translate to ONNX
    program.example_inputs = None
    torch.onnx.export(
        program, (), str(file), dynamo=True, input_names=list(names), output_names=["outputs"], external_data=False
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    input_names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        by_name = dict(zip(names, inputs, strict=True))
        return torch.from_numpy(session.run(None, {name: by_name[name].numpy() for name in input_names})[0])

    return run


_WRITERS: dict[str, Callable[[Any, Sequence[str], Path], Callable[..., Tensor]]] = {
    "torch": _write_torch,
    "onnx": _write_onnx,
}


def _check_onnx() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ONNX needs {error.name}: pip install -c constraints.txt -e .[onnx]; --format torch needs no further package"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress progress and warnings of the exporters."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _reason(error: Exception) -> str:
    """Return the first line of the root cause of an error."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__
