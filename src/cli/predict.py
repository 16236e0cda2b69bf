"""Command line of `python -m src.predict`: read inputs, generate or predict, and print or write the results."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.cli.hydra_app import run_parser
from src.cli.prediction_file import PredictionWriter
from src.core.console import echo
from src.core.errors import UserError, nearest
from src.core.escape import line
from src.tasks.registry import TASKS

if TYPE_CHECKING:
    from torch import Tensor

    from src.core.batches import Batch
    from src.models.base import Model
    from src.training.inference import LoadedModel

BATCH_SIZE = 256


@dataclass(frozen=True)
class Generation:
    """How a generating model chooses its tokens; None is the default of the task.

    Args:
        length: largest number of tokens; by default 200 for language models, the longest training target for translation.
        temperature: temperature of sampling; by default 0 (the likeliest token) for translation, 0.8 for text.
        top_k, top_p: sample from the likeliest tokens only.
        seed: seed of sampling.
        beams, length_penalty: options of a beam search for the likeliest sequence; by default those of the model.

    Raises:
        UserError: for a value out of range.
    """

    length: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    beams: int | None = None
    length_penalty: float | None = None

    def __post_init__(self) -> None:
        for name, is_valid, rule in (
            ("length", lambda n: n >= 1, "be 1 or more"),
            ("temperature", lambda t: 0 <= t < float("inf"), "be 0 or more"),
            ("top_k", lambda k: k >= 1, "be 1 or more"),
            ("top_p", lambda p: 0 < p <= 1, "be above 0 and at most 1"),
            ("seed", lambda s: 0 <= s < 2**32, "be 0 or more"),
            ("beams", lambda k: k >= 1, "be 1 or more"),
            ("length_penalty", lambda a: 0 <= a < float("inf"), "be 0 or more"),
        ):
            if (value := getattr(self, name)) is not None and not is_valid(value):
                raise UserError(f"{_flag(name)} {value}: must {rule}")

    def arguments(self, model: "Model") -> dict[str, Any]:
        """Return the arguments of a model's `generate`.

        Raises:
            UserError: for an option that the model, its task or a temperature of 0 would ignore.
        """
        task = model.spec.task
        info = TASKS[task]
        flags = [_flag(key) for key, value in asdict(self).items() if value is not None]
        if not info.generates:
            if flags:
                raise UserError(f"{', '.join(flags)}: only for models that generate; the task of this one is {task}")
            return {}
        beam_search = self.beams is not None or self.length_penalty is not None
        temperature = self.temperature
        if temperature is None:
            temperature = 0.0 if beam_search else info.temperature
        ignored = ", ".join(flag for flag in flags if flag in ("--top-k", "--top-p", "--seed"))
        if temperature == 0 and ignored:
            if beam_search:
                raise UserError(f"{ignored}: for sampling, and --beams searches the likeliest sequence: give one")
            raise UserError(
                f"{ignored}: the temperature is 0, which takes the likeliest token; to sample: --temperature 1"
            )
        sampling = {
            "max_new_tokens": self.length,
            "temperature": temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
        }
        return sampling | self._search(model, temperature)

    def _search(self, model: "Model", temperature: float) -> dict[str, Any]:
        """Return the arguments of a beam search; empty without one."""
        if self.beams is None and self.length_penalty is None:
            return {}
        if not model.supports_beam_search:
            raise UserError(f"--beams and --length-penalty: {type(model).__name__} has no beam search; Transformer has")
        if temperature:
            raise UserError("--beams searches the likeliest sequence, --temperature samples one: give one of them")
        if self.length_penalty is not None and (self.beams or getattr(model, "beams", 1)) == 1:
            raise UserError("--length-penalty ranks the sequences of a beam search: add --beams 4")
        tokens = model.spec.output_size
        if self.beams is not None and self.beams > tokens:
            raise UserError(f"--beams {self.beams}: at most {tokens}, the number of tokens that each step chooses from")
        return {"beams": self.beams, "length_penalty": self.length_penalty}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def predict(path: Path, inputs: Sequence[str], attention: bool = False, **generation: Any) -> list[dict[str, Any]]:
    """Return the predictions of a trained model, each a dictionary with ``prediction`` and, for classes, ``probabilities``.

    Args:
        path: run folder or checkpoint.
        inputs: raw inputs, as the datamodule's `encode` accepts them.
        attention: draw attention maps; each prediction then lists their files under ``attention``.
        generation: arguments of `Generation`, for models that generate.

    Raises:
        UserError: if there is no such run, or if an input cannot be read.
    """
    loaded, arguments = _load(path, Generation(**generation))
    if attention:
        return [output for _, output in _predict_with_attention(loaded, inputs, **arguments)]
    return [output for _, output in predict_inputs(loaded, inputs, **arguments)]


def predict_loaded(loaded: "LoadedModel", inputs: Sequence[str], **generation: Any) -> list[dict[str, Any]]:
    """Return the predictions of a loaded model. See `predict`."""
    options = [field.name for field in fields(Generation)]
    for name in sorted(generation.keys() - set(options)):
        raise UserError(f"{name}: {nearest(name, options)}")
    arguments = _generation_arguments(loaded, Generation(**generation))
    return [output for _, output in predict_inputs(loaded, inputs, **arguments)]


def predict_inputs(
    loaded: "LoadedModel", inputs: Sequence[str], **arguments: Any
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield inputs with their predictions, a batch at a time, so that a folder may have any size.

    Args:
        loaded: model with its data preparation.
        inputs: raw inputs, as the datamodule's `encode` accepts them; files of a folder and rows of a file become one input each.
        arguments: keyword arguments of the model's `generate`.
    """
    from src.training import inference

    datamodule = loaded.datamodule
    single_inputs = datamodule.listed(inputs)
    for start in range(0, len(single_inputs), BATCH_SIZE):
        chunk = single_inputs[start : start + BATCH_SIZE]
        batch = datamodule.encode(chunk)
        size = len(batch[0])
        if size != len(chunk) > 1:  # some inputs are files with several rows: encode each alone, to number its rows
            for name in chunk:
                yield from predict_inputs(loaded, [name], **arguments)
            continue
        names = chunk if size == len(chunk) else [f"{chunk[0]}, example {number}" for number in range(1, size + 1)]
        for first in range(0, size, BATCH_SIZE):
            part = type(batch)(*(tensor[first : first + BATCH_SIZE] for tensor in batch))
            yield from zip(
                names[first : first + BATCH_SIZE], inference.predict_batch(loaded, part, **arguments), strict=True
            )


def _predict_with_attention(
    loaded: "LoadedModel", inputs: Sequence[str], **arguments: Any
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield inputs with their predictions, whose ``attention`` lists the attention maps drawn into plots/ of the run."""
    from src.training import inference

    names: Sequence[str] = loaded.datamodule.listed(inputs)
    outputs = inference.predict_batch(loaded, loaded.datamodule.encode(names), _draw_attention, **arguments)
    if len(names) != len(outputs):
        names = [str(number) for number in range(1, len(outputs) + 1)]
    yield from zip(names, outputs, strict=True)


def _load(path: Path, generation: Generation) -> tuple["LoadedModel", dict[str, Any]]:
    """Load a model, and return it with the arguments of its `generate`."""
    from src.training.inference import load

    loaded = load(path)
    return loaded, _generation_arguments(loaded, generation)


def _generation_arguments(loaded: "LoadedModel", generation: Generation) -> dict[str, Any]:
    """Return the arguments of the model's `generate`, and seed the sampling."""
    import torch

    arguments = generation.arguments(loaded.model)
    if generation.seed is not None:
        torch.manual_seed(generation.seed)
    return arguments


def _draw_attention(loaded: "LoadedModel", batch: "Batch", outputs: "Tensor") -> list[list[Path]]:
    """Draw the attention maps of a batch into plots/ of the run, or of the checkpoint's folder."""
    from src.diagnostics import attention_maps

    model = loaded.model
    if TASKS[model.spec.task].generates:
        batch = attention_maps.append_generated(batch, outputs, model.spec.start_id)
    parent = loaded.checkpoint.parent
    folder = parent.parent if parent.name == "checkpoints" else parent
    return attention_maps.draw_attention(model, loaded.datamodule, batch, folder, "attention")


# ---- command line ------------------------------------------------------------------------------------------------


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = run_parser("python -m src.predict", description)
    parser.add_argument("inputs", nargs="+", metavar="input")
    parser.add_argument("--attention", action="store_true", help="draw a transformer's attention maps into RUN/plots")
    output_help = (
        "write the predictions to this file: .csv or .jsonl; in CSV, text like =1+1 gets an apostrophe in front"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help=output_help)
    group = parser.add_argument_group("models that generate")
    group.add_argument("--length", type=int, help="largest number of tokens to generate")
    group.add_argument("--temperature", type=float, help="temperature of sampling; 0 takes the likeliest token")
    group.add_argument("--top-k", type=int, help="sample from the k likeliest tokens only")
    group.add_argument("--top-p", type=float, help="sample from the likeliest tokens with this total probability")
    group.add_argument("--seed", type=int, help="seed of sampling: another seed gives another text")
    group.add_argument("--beams", type=int, help="width of a beam search for the likeliest sequence; 1 is greedy")
    group.add_argument("--length-penalty", type=float, help="of the beam search; 0 favours short sequences")
    return parser


def print_predictions(options: argparse.Namespace) -> None:
    """Predict the inputs of a command line, and print the predictions or write them to a file.

    Args:
        options: parsed by `parser`.

    Raises:
        UserError: if there is no such run, or if an input or an option is invalid.
    """
    generation = Generation(**{field.name: getattr(options, field.name) for field in fields(Generation)})
    writer = PredictionWriter(options.output, options.inputs) if options.output else None
    loaded, arguments = _load(options.run, generation)
    beams = arguments.get("beams") or getattr(loaded.model, "beams", None) or 1
    beam_search = beams > 1 and not arguments.get("temperature")
    as_text = not (options.json or options.attention or options.output)
    if loaded.model.spec.task == "language_modelling" and not beam_search and as_text:
        _print_continuation(loaded, options.inputs, arguments)
        return
    function = _predict_with_attention if options.attention else predict_inputs
    predictions = function(loaded, options.inputs, **arguments)
    if writer is None:
        for name, output in predictions:
            echo(json.dumps(output, ensure_ascii=False) if options.json else prediction_line(name, output))
        return
    with writer:
        for name, output in predictions:
            writer.write(name, output)
    echo(f"{writer.count:,} predictions in {writer.path}")


def _print_continuation(loaded: "LoadedModel", inputs: Sequence[str], arguments: dict[str, Any]) -> None:
    """Print a prompt and, token by token, its continuation by a language model."""
    from src.training.inference import continuation

    batch = loaded.datamodule.encode(inputs)
    echo(inputs[0], end="", flush=True)
    for piece in continuation(loaded, batch, **arguments):
        echo(piece, end="", flush=True)
    echo()


def prediction_line(name: str, output: dict[str, Any]) -> str:
    """Return an input and its prediction as one line, with the three likeliest classes and the files of attention maps."""
    name = name.encode(errors="backslashreplace").decode().strip().replace("\n", "; ")
    name = name if len(name) <= 40 else name[:37] + "..."
    probabilities = output.get("probabilities", {})
    likeliest = sorted(probabilities.items(), key=lambda pair: -pair[1])[:3]
    percentages = ", ".join(f"{line(label)} {100 * probability:.1f} %" for label, probability in likeliest)
    text = _text(output["prediction"])
    if probabilities:
        text = line(text)
    plots = "".join(f"\n  {line(path)}" for path in output.get("attention", []))
    return f"{name} → {text}" + (f"  ({percentages})" if percentages else "") + plots


def _text(value: Any) -> str:
    """Return numbers with four digits, a series on one line, and several series with one line for each step."""
    if isinstance(value, dict):
        return "  ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list):
        nested = any(isinstance(part, (list, dict)) for part in value)
        return "".join(f"\n  {_text(part)}" for part in value) if nested else " ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
