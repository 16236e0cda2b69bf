"""Predict: python -m src.predict <run folder or checkpoint> <input> [<input> …] [--json]

An input is what the data are made of: an image file, a CSV row or file, a date, the past of a series, a prompt.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config.command_line import errors_for_people, parser_of_a_run
from src.errors import UserError
from src.tasks.catalogue import TASKS

if TYPE_CHECKING:
    from src.models.base import Model


def predict(
    path: Path,
    inputs: Sequence[str],
    length: int | None = None,
    temperature: float | None = None,
    beams: int | None = None,
    length_penalty: float | None = None,
    attention: bool = False,
) -> list[dict[str, Any]]:
    """Return a trained model's answers, one dictionary each with ``prediction`` and, for classes, ``probabilities``.

    Args:
        path: a run folder or a checkpoint.
        inputs: in the form that the datamodule's `encode` takes.
        length: tokens to generate, for language models; 200 unless told.
        temperature: of sampling, for models that generate; 0, the likeliest token, for translation, 0.8 for text.
        beams, length_penalty: of a beam search for the likeliest sequence; by default those of the model.
        attention: draw where the model looked; each answer then lists the pictures under ``attention``.

    Raises:
        UserError: if there is no such run, or if an input cannot be read.
    """
    from src.experiment import answer, load

    loaded = load(path)
    generation: dict[str, Any] = {}
    task = TASKS[loaded.model.spec.task]
    if task.generates:
        generation = {
            "max_new_tokens": length,
            "temperature": (0.0 if beams else task.temperature) if temperature is None else temperature,
        } | _search(loaded.model, beams, length_penalty, temperature)
    elif not (length is temperature is beams is length_penalty is None):
        raise UserError(
            "--length, --temperature, --beams and --length-penalty are for models that generate; "
            f"this one does {loaded.model.spec.task}"
        )
    place = loaded.checkpoint.parent
    pictures = place.parent if place.name == "checkpoints" else place
    return answer(loaded, loaded.datamodule.encode(inputs), pictures if attention else None, **generation)


def _search(model: "Model", beams: int | None, length_penalty: float | None, temperature: float | None) -> dict:
    """Return the arguments of a beam search, where one is asked for and makes sense."""
    if beams is None and length_penalty is None:
        return {}
    if not model.searches:
        raise UserError(f"--beams and --length-penalty: {type(model).__name__} has no beam search; Transformer has")
    if temperature:
        raise UserError("--beams searches the likeliest sequence, --temperature draws one: give one of them")
    if length_penalty is not None and (beams or getattr(model, "beams", 1)) == 1:
        raise UserError("--length-penalty weighs the sequences of a beam search: add --beams 4")
    return {"beams": beams, "length_penalty": length_penalty}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of_a_run("python -m src.predict", __doc__)
    parser.add_argument("inputs", nargs="+", metavar="input")
    parser.add_argument("--length", type=int, help="tokens to generate (language models)")
    parser.add_argument("--temperature", type=float, help="of sampling; 0 takes the likeliest token")
    parser.add_argument("--beams", type=int, help="of a search for the likeliest sequence; 1 is greedy")
    parser.add_argument("--length-penalty", type=float, help="of that search; 0 favours short sequences")
    parser.add_argument("--attention", action="store_true", help="draw where a transformer looks, into RUN/plots")
    words = parser.parse_args(argv)
    with errors_for_people():
        if words.length is not None and words.length < 1:
            raise UserError(f"--length {words.length}: must be 1 or more")
        if words.temperature is not None and words.temperature < 0:
            raise UserError(f"--temperature {words.temperature}: must be 0 or more")
        if words.beams is not None and words.beams < 1:
            raise UserError(f"--beams {words.beams}: must be 1 or more")
        if words.length_penalty is not None and words.length_penalty < 0:
            raise UserError(f"--length-penalty {words.length_penalty}: must be 0 or more")
        answers = predict(
            words.run,
            words.inputs,
            words.length,
            words.temperature,
            words.beams,
            words.length_penalty,
            words.attention,
        )
        for number, found in enumerate(answers):
            if words.json:
                print(json.dumps(found, ensure_ascii=False))
            else:
                shown = words.inputs[number] if len(answers) == len(words.inputs) else f"row {number + 1}"
                print(_line(shown, found))


def _line(shown: str, found: dict[str, Any]) -> str:
    shown = shown.strip().replace("\n", "; ")
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    probabilities = found.get("probabilities", {})
    likely = sorted(probabilities.items(), key=lambda pair: -pair[1])[:3]
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in likely)
    pictures = "".join(f"\n  {path}" for path in found.get("attention", []))
    return f"{shown} → {_text(found['prediction'])}" + (f"  ({shares})" if shares else "") + pictures


def _text(value: Any) -> str:
    """Return numbers with four digits, a series on a line, and steps of several series one a line."""
    if isinstance(value, dict):
        return "  ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list):
        nested = any(isinstance(part, (list, dict)) for part in value)
        return "".join(f"\n  {_text(part)}" for part in value) if nested else " ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(sys.argv[1:])
