"""Predict: python -m src.predict <run folder or checkpoint> <input> [<input> …] [--json] [--output answers.csv]

An input is what the data are made of: an image or a sound, a folder of them, a CSV row or file, a text or a file of
texts, a date, the past of a series, a prompt. A language model's text is shown while it is generated.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

from src.cli.hydra_app import errors_for_people, parsed, parser_of_a_run
from src.cli.predict import Generation, _draw_attention, _line, _ready, answers_to
from src.cli.prediction_file import AnswerFile
from src.core.console import echo


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = parser_of_a_run("python -m src.predict", __doc__)
    parser.add_argument("inputs", nargs="+", metavar="input")
    parser.add_argument("--attention", action="store_true", help="draw where a transformer looks, into RUN/plots")
    written = "write the answers there: .csv or .jsonl; in CSV, text like =1+1 gets an apostrophe in front"
    parser.add_argument("--output", type=Path, metavar="FILE", help=written)
    generating = parser.add_argument_group("models that generate")
    generating.add_argument("--length", type=int, help="the most tokens to generate")
    generating.add_argument("--temperature", type=float, help="of sampling; 0 takes the likeliest token")
    generating.add_argument("--top-k", type=int, help="sample from the k likeliest tokens only")
    generating.add_argument("--top-p", type=float, help="sample from the likeliest tokens of this probability together")
    generating.add_argument("--seed", type=int, help="of the sampling: another number, another text")
    generating.add_argument("--beams", type=int, help="of a search for the likeliest sequence; 1 is greedy")
    generating.add_argument("--length-penalty", type=float, help="of that search; 0 favours short sequences")
    words = parsed(parser, argv)
    with errors_for_people():
        generation = Generation(**{field.name: getattr(words, field.name) for field in fields(Generation)})
        output = AnswerFile(words.output, words.inputs) if words.output else None
        from src.training.inference import answer, continuation

        loaded, arguments = _ready(words.run, generation)
        beams = arguments.get("beams") or getattr(loaded.model, "beams", None) or 1
        searches = beams > 1 and not arguments.get("temperature")
        plain = not (words.json or words.attention or words.output)
        if loaded.model.spec.task == "language_modelling" and not searches and plain:
            batch = loaded.datamodule.encode(words.inputs)
            echo(words.inputs[0], end="", flush=True)
            for piece in continuation(loaded, batch, **arguments):
                echo(piece, end="", flush=True)
            echo()
            return
        if words.attention:
            inputs = loaded.datamodule.listed(words.inputs)
            drawn = answer(loaded, loaded.datamodule.encode(inputs), _draw_attention, **arguments)
            answers = zip(
                inputs if len(inputs) == len(drawn) else map(str, range(1, len(drawn) + 1)), drawn, strict=True
            )
        else:
            answers = answers_to(loaded, words.inputs, **arguments)  # type: ignore[assignment]
        with output or nullcontext() as file:
            for shown, found in answers:
                if file is not None:
                    file.write(shown, found)
                else:
                    echo(json.dumps(found, ensure_ascii=False) if words.json else _line(shown, found))
        if file is not None:
            echo(f"{file.count:,} answers in {file.path}")


if __name__ == "__main__":
    main(sys.argv[1:])
