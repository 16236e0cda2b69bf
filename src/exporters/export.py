"""Export the best weights of a run as programs, with a model card."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from src.core.errors import UserError
from src.core.files import make_folder_below, write_below

if TYPE_CHECKING:
    from src.exporters.programs import Exported


def export(path: Path, formats: Sequence[str] | None = None, target: Path | None = None) -> "list[Exported]":
    """Export the best weights of a run, and write the model card.

    Args:
        path: the run folder.
        formats: ``torch`` and ``onnx``; by default both, the second only where its packages are installed.
        target: where the files go; export/ of the run.

    Raises:
        UserError: if there is no such run, if its model cannot be exported, with the reason, or if the folder cannot be written.
    """
    from importlib.util import find_spec

    from src.exporters.model_card import model_card
    from src.exporters.programs import FORMATS
    from src.exporters.programs import export as write
    from src.run_store.run_folder import RunFolder
    from src.training.inference import load

    if path.is_file():
        raise UserError(f"{path}: this is a file; a model card tells of a run, so name the run folder")
    run = RunFolder.open(path)
    if formats is None:
        complete = find_spec("onnxruntime") and find_spec("onnxscript")
        formats = [name for name in FORMATS if name != "onnx" or complete]
    loaded = load(path)
    try:
        folder = target or make_folder_below(run.path, "export")
        made = write(loaded, folder, formats)
    except OSError as error:
        place = error.filename or target or run.path
        raise UserError(
            f"{place}: cannot be written: {error.strerror}. Choose another folder with --to FOLDER"
        ) from error
    files = {
        program.file.name: f"{program.format}; outputs differ by at most {program.difference:.1g} from the model's on "
        f"{program.examples} examples of the test split"
        for program in made
    }
    card = model_card(run, loaded.config.plain(), loaded.model.spec, usage(made, loaded.model.spec.task), files)
    write_below(folder, "README.md", card)
    return made


OUTPUTS = {
    "classification": "logits [batch, classes], in the order of the class names; softmax makes probabilities of them",
    "binary_classification": "logits [batch]; sigmoid makes the probability of the second class",
    "regression": "targets [batch, targets], on the scale that training standardised them to",
    "forecasting": "values [batch, horizon, series], on the scale of the inputs",
    "tagging": "logits [batch, length, classes] of every step",
    "language_modelling": "logits [batch, length, vocabulary] of the token after each",
    "translation": "logits [batch, length, vocabulary] of the target's token after each",
}
"""What a program returns, by task."""


def usage(made: "Sequence[Exported]", task: str) -> str:
    """Return how the programs are loaded, as Markdown."""
    inputs = made[0].inputs
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
    how = "\n\n".join(code[program.format] for program in made)
    return f"Inputs, prepared as in training:\n\n{shapes}\n\nOutputs: {OUTPUTS[task]}.\n\n{how}"
