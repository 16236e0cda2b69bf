"""Predict: python -m src.predict <run folder or checkpoint> <input> [<input> …] [--json]

An input is what the data are made of: an image file, a CSV row or file, a date, the past of a series, a prompt.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.config.command_line import errors_for_people, parser_of_a_run
from src.errors import UserError
from src.tasks.catalogue import TASKS


def predict(
    path: Path, inputs: Sequence[str], length: int | None = None, temperature: float | None = None
) -> list[dict[str, Any]]:
    """Return a trained model's answers, one dictionary each with ``prediction`` and, for classes, ``probabilities``.

    Args:
        path: a run folder or a checkpoint.
        inputs: in the form that the datamodule's `encode` takes.
        length: tokens to generate, for language models; 200 unless told.
        temperature: of sampling, for models that generate; 0, the likeliest token, for translation, 0.8 for text.

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
            "temperature": task.temperature if temperature is None else temperature,
        }
    elif length is not None or temperature is not None:
        raise UserError(
            f"--length and --temperature are for models that generate; this one does {loaded.model.spec.task}"
        )
    return answer(loaded, loaded.datamodule.encode(inputs), **generation)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of_a_run("python -m src.predict", __doc__)
    parser.add_argument("inputs", nargs="+", metavar="input")
    parser.add_argument("--length", type=int, help="tokens to generate (language models)")
    parser.add_argument("--temperature", type=float, help="of sampling; 0 takes the likeliest token")
    words = parser.parse_args(argv)
    with errors_for_people():
        if words.length is not None and words.length < 1:
            raise UserError(f"--length {words.length}: must be 1 or more")
        if words.temperature is not None and words.temperature < 0:
            raise UserError(f"--temperature {words.temperature}: must be 0 or more")
        answers = predict(words.run, words.inputs, words.length, words.temperature)
        for number, found in enumerate(answers):
            if words.json:
                print(json.dumps(found, ensure_ascii=False))
            else:
                shown = words.inputs[number] if len(answers) == len(words.inputs) else f"row {number + 1}"
                print(_line(shown, found))


def _line(shown: str, found: dict[str, Any]) -> str:
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    prediction = found["prediction"]
    if isinstance(prediction, list):
        prediction = " ".join(f"{value:.4g}" for value in prediction)
    elif isinstance(prediction, float):
        prediction = f"{prediction:.4g}"
    probabilities = found.get("probabilities", {})
    likely = sorted(probabilities.items(), key=lambda pair: -pair[1])[:3]
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in likely)
    return f"{shown} → {prediction}" + (f"  ({shares})" if shares else "")


if __name__ == "__main__":
    main(sys.argv[1:])
