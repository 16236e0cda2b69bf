"""A trained model as a program that runs without Gridlight: torch.export's and ONNX, checked against the model itself."""

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
    from src.training.inference import Loaded

FORMATS = ("torch", "onnx")
FILES = {"torch": "model.pt2", "onnx": "model.onnx"}

EXAMPLES = 64
"""Examples of the test split on which outputs are compared."""

TOLERANCE = 1e-4
"""Largest difference of an output, in units of the largest output: float32 sums in another order."""


@dataclass(frozen=True)
class Exported:
    """One file that was written and checked.

    Args:
        format: ``torch`` or ``onnx``.
        file: the program.
        inputs: name of each input with its shape; what may vary has a name.
        difference: the largest difference to the model's outputs.
        examples: on how many examples of the test split.
    """

    format: str
    file: Path
    inputs: dict[str, list[str]]
    difference: float
    examples: int


def export(loaded: "Loaded", folder: Path, formats: Sequence[str] = FORMATS) -> list[Exported]:
    """Write a trained model as programs, and compare their outputs with the model's on examples of the test split.

    Batches may have any size; so may texts and translations.

    Args:
        loaded: the model, with its data.
        folder: where the files go; a link that lies in the place of a file is replaced.
        formats: of `FORMATS`.

    Raises:
        UserError: if the model cannot be exported, with the reason; if a package is missing; if outputs differ.
    """
    if "onnx" in formats:
        _needs_onnx()
    model = loaded.model.eval()
    model.training_config = None
    name = type(model).__name__
    batches = _examples(loaded)
    inputs = tuple(batches[0].inputs)
    names = _names(batches[0])
    with _quiet():
        try:
            program = torch.export.export(
                _FORWARD[len(inputs)](model), inputs, dynamic_shapes=_varying(batches[0]), strict=False
            )
        except Exception as error:
            padded = loaded.model.spec.inputs == "tokens" and loaded.model.spec.padding_id is not None
            hint = ". Padded sequences are perhaps packed by their lengths, which depends on the data" if padded else ""
            raise UserError(f"{name} cannot be exported: {_reason(error)}{hint}") from error
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    # The libraries write to a path, and follow what lies there: they get an empty folder, and the files are copied from it.
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
            made.append(Exported(format, folder / file.name, _shapes(program, names), difference, examples))
    return made


def _examples(loaded: "Loaded") -> list[Batch]:
    """Return two batches of different sizes of real examples; not of one in the first, which would be taken for fixed."""
    loaded.datamodule.prepare_data()
    loaded.datamodule.setup()
    whole = loaded.datamodule.split("test")
    count = min(EXAMPLES, len(whole[0]))
    batches = []
    for rows in (torch.arange(max(2, count - 3)) % count, torch.arange(max(0, count - 3), count)):
        batch = loaded.datamodule.collate(type(whole)(*(tensor[rows] for tensor in whole)))
        moved = (tensor.to(loaded.model.dtype) if tensor.is_floating_point() else tensor for tensor in batch)
        batches.append(type(batch)(*moved))
    return batches


def _names(batch: Batch) -> list[str]:
    """Return the names of the inputs: those of the batch's fields that the model reads."""
    return list(batch._fields[: len(batch.inputs)])


def _varying(batch: Batch) -> tuple[dict[int, Any], ...]:
    """Return which dimensions may have another size: the batch, and the time where the data have times of their own."""
    size = torch.export.Dim("batch", min=1)
    shapes: list[dict[int, Any]] = []
    for tensor in batch.inputs:
        shape: dict[int, Any] = {0: size}
        if tensor.dim() > 1 and not isinstance(batch, LabelledBatch):
            shape[1] = torch.export.Dim.AUTO
        shapes.append(shape)
    return tuple(shapes)


def _shapes(program: Any, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the shape of each input, with a name for a size that may vary."""
    given = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    shapes = (node.meta["val"].shape for node in given)
    varying = ("batch", "length", "size")
    return {
        name: [str(size) if isinstance(size, int) else varying[min(place, 2)] for place, size in enumerate(shape)]
        for name, shape in zip(names, shapes, strict=True)
    }


@torch.no_grad()
def _difference(model: nn.Module, run: Callable[..., Tensor], batch: Batch, what: str) -> float:
    expected, found = model(*batch.inputs), run(*batch.inputs)
    scale = float(expected.abs().max().clamp(min=1.0))
    difference = float((expected - found).abs().max())
    if found.shape != expected.shape or not difference <= TOLERANCE * scale:
        raise UserError(f"{what}: its outputs differ from the model's by {difference:.2g}, so nothing was written")
    return difference


class _OneInput(nn.Module):
    """A model's `forward` with as many arguments as its data have: ONNX knows no others."""

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

    # torch 2.13 would put a check of the inputs' sizes into the program, and then cannot translate it
    program.example_inputs = None
    torch.onnx.export(
        program, (), str(file), dynamo=True, input_names=list(names), output_names=["outputs"], external_data=False
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    given = [entry.name for entry in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        known = dict(zip(names, inputs, strict=True))
        return torch.from_numpy(session.run(None, {name: known[name].numpy() for name in given})[0])

    return run


_WRITERS: dict[str, Callable[[Any, Sequence[str], Path], Callable[..., Tensor]]] = {
    "torch": _write_torch,
    "onnx": _write_onnx,
}


def _needs_onnx() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"ONNX needs {error.name}: pip install -c constraints.txt -e .[onnx]; --format torch needs nothing"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress and advice about packages that we do not use from the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _reason(error: Exception) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__
