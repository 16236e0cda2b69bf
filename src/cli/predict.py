"""Command line of `python -m src.predict`: read inputs, generate or predict, and print or write the results."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.core.errors import UserError, nearest
from src.core.escape import line
from src.tasks.registry import TASKS

if TYPE_CHECKING:
    from torch import Tensor

    from src.core.batches import Batch
    from src.models.base import Model
    from src.training.inference import Loaded

AT_ONCE = 256
"""Inputs that are answered in one batch."""


@dataclass(frozen=True)
class Generation:
    """How a model that generates chooses its tokens; None leaves it to the task.

    Args:
        length: the most tokens to generate; 200 for language models, the longest known target for translation.
        temperature: of sampling; 0, the likeliest token, for translation, 0.8 for text.
        top_k, top_p: sample from the likeliest tokens only.
        seed: of the sampling.
        beams, length_penalty: of a beam search for the likeliest sequence; by default those of the model.

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
        for name, fits, must in (
            ("length", lambda n: n >= 1, "be 1 or more"),
            ("temperature", lambda t: 0 <= t < float("inf"), "be 0 or more"),
            ("top_k", lambda k: k >= 1, "be 1 or more"),
            ("top_p", lambda p: 0 < p <= 1, "be above 0 and at most 1"),
            ("seed", lambda s: 0 <= s < 2**32, "be 0 or more"),
            ("beams", lambda k: k >= 1, "be 1 or more"),
            ("length_penalty", lambda a: 0 <= a < float("inf"), "be 0 or more"),
        ):
            if (value := getattr(self, name)) is not None and not fits(value):
                raise UserError(f"{_flag(name)} {value}: must {must}")

    def arguments(self, model: "Model") -> dict[str, Any]:
        """Return the arguments of a model's `generate`.

        Raises:
            UserError: if something is given that the model, its task or a temperature of 0 would ignore.
        """
        task = model.spec.task
        facts = TASKS[task]
        given = [_flag(key) for key, value in asdict(self).items() if value is not None]
        if not facts.generates:
            if given:
                raise UserError(f"{', '.join(given)}: for models that generate; this one does {task}")
            return {}
        searching = self.beams is not None or self.length_penalty is not None
        temperature = (0.0 if searching else facts.temperature) if self.temperature is None else self.temperature
        if temperature == 0 and (idle := [flag for flag in given if flag in ("--top-k", "--top-p", "--seed")]):
            if searching:
                raise UserError(
                    f"{', '.join(idle)}: for sampling, and --beams searches the likeliest sequence: give one"
                )
            raise UserError(
                f"{', '.join(idle)}: the temperature is 0, which takes the likeliest token; to sample: --temperature 1"
            )
        sampling = {
            "max_new_tokens": self.length,
            "temperature": temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
        }
        return sampling | self._search(model, temperature)

    def _search(self, model: "Model", temperature: float) -> dict[str, Any]:
        """Return the arguments of a beam search, where one is asked for and makes sense."""
        if self.beams is None and self.length_penalty is None:
            return {}
        if not model.searches:
            raise UserError(f"--beams and --length-penalty: {type(model).__name__} has no beam search; Transformer has")
        if temperature:
            raise UserError("--beams searches the likeliest sequence, --temperature draws one: give one of them")
        if self.length_penalty is not None and (self.beams or getattr(model, "beams", 1)) == 1:
            raise UserError("--length-penalty weighs the sequences of a beam search: add --beams 4")
        if self.beams is not None and self.beams > (most := model.spec.output_size):
            raise UserError(f"--beams {self.beams}: at most {most}, as many as one step has tokens to choose from")
        return {"beams": self.beams, "length_penalty": self.length_penalty}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def predict(path: Path, inputs: Sequence[str], attention: bool = False, **generation: Any) -> list[dict[str, Any]]:
    """Return a trained model's answers, one dictionary each with ``prediction`` and, for classes, ``probabilities``.

    Args:
        path: a run folder or a checkpoint.
        inputs: in the form that the datamodule's `encode` takes.
        attention: draw where the model looked; each answer then lists the pictures under ``attention``.
        generation: arguments of `Generation`, for models that generate.

    Raises:
        UserError: if there is no such run, or if an input cannot be read.
    """
    from src.training.inference import answer

    loaded, arguments = _ready(path, Generation(**generation))
    if attention:
        return answer(loaded, loaded.datamodule.encode(inputs), _draw_attention, **arguments)
    return [found for _, found in answers_to(loaded, inputs, **arguments)]


def predict_loaded(loaded: "Loaded", inputs: Sequence[str], **generation: Any) -> list[dict[str, Any]]:
    """Return the predictions of a model that is loaded. See `predict`."""
    import torch

    unknown = sorted(generation.keys() - {field.name for field in fields(Generation)})
    if unknown:
        raise UserError(f"{unknown[0]}: {nearest(unknown[0], [field.name for field in fields(Generation)])}")
    chosen = Generation(**generation)
    arguments = chosen.arguments(loaded.model)
    if chosen.seed is not None:
        torch.manual_seed(chosen.seed)
    return [found for _, found in answers_to(loaded, inputs, **arguments)]


def answers_to(loaded: "Loaded", inputs: Sequence[str], **arguments: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield inputs with their answers, a few hundred at a time, so that a folder of any size can be answered.

    Args:
        loaded: the model with its data preparation.
        inputs: in the form that the datamodule's `encode` takes; those of a folder, and rows of a file, come one by one.
        arguments: of the model's `generate`.
    """
    from src.training.inference import answer

    datamodule = loaded.datamodule
    listed = datamodule.listed(inputs)
    for start in range(0, len(listed), AT_ONCE):
        some = listed[start : start + AT_ONCE]
        batch = datamodule.encode(some)
        size = len(batch[0])
        if size != len(some) > 1:  # files of several rows among them: one after the other, to name the rows
            for one in some:
                yield from answers_to(loaded, [one], **arguments)
            continue
        names = some if size == len(some) else [f"{some[0]}, example {number}" for number in range(1, size + 1)]
        for first in range(0, size, AT_ONCE):
            part = type(batch)(*(tensor[first : first + AT_ONCE] for tensor in batch))
            yield from zip(names[first : first + AT_ONCE], answer(loaded, part, **arguments), strict=True)


def _ready(path: Path, generation: Generation) -> tuple["Loaded", dict[str, Any]]:
    import torch

    from src.training.inference import load

    loaded = load(path)
    arguments = generation.arguments(loaded.model)
    if generation.seed is not None:
        torch.manual_seed(generation.seed)
    return loaded, arguments


def _draw_attention(loaded: "Loaded", batch: "Batch", outputs: "Tensor") -> list[list[Path]]:
    from src.diagnostics.attention_maps import answered, draw_attention

    model = loaded.model
    shown = answered(batch, outputs, model.spec.start_id) if TASKS[model.spec.task].generates else batch
    return draw_attention(model, loaded.datamodule, shown, _pictures(loaded), "attention")


def _pictures(loaded: "Loaded") -> Path:
    """Return the folder of the run that a checkpoint belongs to, else the one where it lies."""
    place = loaded.checkpoint.parent
    return place.parent if place.name == "checkpoints" else place


def _line(shown: str, found: dict[str, Any]) -> str:
    shown = shown.encode(errors="backslashreplace").decode().strip().replace("\n", "; ")
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    probabilities = found.get("probabilities", {})
    likely = sorted(probabilities.items(), key=lambda pair: -pair[1])[:3]
    shares = ", ".join(f"{line(name)} {100 * share:.1f} %" for name, share in likely)
    pictures = "".join(f"\n  {line(path)}" for path in found.get("attention", []))
    text = _text(found["prediction"])
    return f"{shown} → {line(text) if probabilities else text}" + (f"  ({shares})" if shares else "") + pictures


def _text(value: Any) -> str:
    """Return numbers with four digits, a series on a line, and steps of several series one a line."""
    if isinstance(value, dict):
        return "  ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list):
        nested = any(isinstance(part, (list, dict)) for part in value)
        return "".join(f"\n  {_text(part)}" for part in value) if nested else " ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
