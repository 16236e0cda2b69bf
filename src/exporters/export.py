"""Export the best weights of a run as programs, with a model card."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.errors import UserError
from src.core.files import write_below
from src.exporters.model_card import model_card
from src.run_store.run_folder import RunFolder

if TYPE_CHECKING:
    from src.exporters.programs import Exported


def export(path: Path, formats: Sequence[str] | None = None, target: Path | None = None) -> "list[Exported]":
    """Export the best weights of a run, and write the model card.

    Args:
        path: run folder.
        formats: ``torch`` and ``onnx``; by default both, the second only if its packages are installed.
        target: folder for the files; by default export/ of the run.

    Raises:
        UserError: if there is no such run, if its model cannot be exported, or if the folder cannot be written.
    """
    from src.exporters import programs  # lazy: loads torch
    from src.training.inference import load

    if path.is_file():
        raise UserError(f"{path}: this is a file; a model card describes a run, so name the run folder")
    run = RunFolder.open(path)
    if formats is None:
        has_onnx = find_spec("onnxruntime") and find_spec("onnxscript")
        formats = [name for name in programs.FORMATS if name != "onnx" or has_onnx]
    loaded = load(path)
    root = target or run.path
    folder = target or run.path / "export"
    try:
        exported = programs.export(loaded, folder, formats, root)
        files = {
            program.file.name: f"{program.format}; outputs differ by at most {program.difference:.1g} from the model's on "
            f"{program.examples} examples of the test split"
            for program in exported
        }
        card = model_card(run, loaded.config.plain(), loaded.model.spec, usage(exported, loaded.model.spec.task), files)
        write_below(root, (folder / "README.md").relative_to(root), card)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot be written: {error.strerror}. Choose another folder with --to FOLDER"
        ) from error
    return exported


OUTPUTS = {
    "classification": "logits [batch, classes], in the order of the class names; softmax gives probabilities",
    "binary_classification": "logits [batch]; sigmoid gives the probability of the second class",
    "regression": "targets [batch, targets], standardised as in training",
    "forecasting": "values [batch, horizon, series], on the scale of the inputs",
    "tagging": "logits [batch, length, classes] of every step",
    "language_modelling": "logits [batch, length, vocabulary] of the token after each",
    "translation": "logits [batch, length, vocabulary] of the target's token after each",
}
"""Outputs of a program, by task."""


def usage(programs: "Sequence[Exported]", task: str) -> str:
    """Return instructions for loading the programs, as Markdown."""
    inputs = programs[0].inputs
    shapes = "\n".join(f"- `{name}`: [{', '.join(shape)}]" for name, shape in inputs.items())
    code = {
        "torch": f"""```python
import torch

model = torch.export.load("model.pt2").module()
outputs = model({", ".join(inputs)})
```""",
        "onnx": f"""```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(outputs,) = session.run(None, {{{", ".join(f'"{name}": {name}' for name in inputs)}}})
```""",
    }
    examples = "\n\n".join(code[program.format] for program in programs)
    return f"Inputs, prepared as in training:\n\n{shapes}\n\nOutputs: {OUTPUTS[task]}.\n\n{examples}"
