"""Model card: description, intended use, results and usage of a trained model, as Markdown.

The headings are those of Mitchell et al., Model Cards for Model Reporting (2019), as far as a run records their content.
"""

from collections.abc import Mapping
from typing import Any

from src.core.console import format_number
from src.core.data_spec import DataSpec
from src.core.escape import markdown, markdown_code, markdown_table
from src.run_store.filters import flatten
from src.run_store.run_folder import RunFolder
from src.tasks.registry import TASKS


def model_card(folder: RunFolder, config: Mapping[str, Any], spec: DataSpec, use: str, files: Mapping[str, str]) -> str:
    """Return the model card of a run. Names and values of the run are escaped as text.

    Args:
        folder: run folder.
        config: validated config of the loaded model, as plain containers.
        spec: description of its data.
        use: instructions for loading the model, as Markdown.
        files: names of the files beside the card, each with a description.
    """
    record = folder.record
    model, data, info = config["model"]["name"], config["datamodule"]["name"], TASKS[spec.task]
    title = f"{markdown(model)} on {markdown(data)}"
    task = spec.task.replace("_", " ")
    sections = {
        "": f"# {title}\n\nThe model {markdown_code(model)} for {task} ({info.summary}), trained with Gridlight.",
        "Intended use": _intended(spec, data),
        "Results": _results(record),
        "Data": _settings(config["datamodule"]) + _names(spec),
        "Model": _model(config["model"], record),
        "Training": _settings(_training(config), only_active=True) + _length(config, record),
        "How to use it": use,
        "Files": "\n".join(f"- {markdown_code(name)}: {markdown(text)}" for name, text in files.items()),
        "Provenance": _provenance(folder),
    }
    return "\n\n".join(f"## {name}\n\n{text}" if name else text for name, text in sections.items() if text) + "\n"


def _intended(spec: DataSpec, data: str) -> str:
    shape = " × ".join(map(str, spec.input_shape))
    return (
        f"Inputs of the kind that it was trained on: {markdown(data)}, {markdown(spec.inputs)} of shape [{markdown(shape)}], "
        "prepared as in training (the checkpoint holds the preparation). It was evaluated only on the test split of these data: "
        "its performance on other data, and whether its errors are more frequent for some groups than for others, is unknown."
    )


def _results(record: Mapping[str, Any]) -> str:
    best, final = record.get("best") or {}, record.get("final") or {}
    names = dict.fromkeys(key.partition("/")[2] for key in (*best, *final) if "/" in key)
    rows = []
    for name in names:
        cells = [{**best, **final}.get(f"{split}/{name}") for split in ("train", "val", "test")]
        rows.append([markdown(name), *("" if cell is None else markdown(format_number(cell)) for cell in cells)])
    epoch = record.get("best_epoch")
    note = f"\n\nOf the best epoch ({epoch + 1}) by {markdown(record.get('monitor'))}." if epoch is not None else ""
    if not rows:
        return "Not evaluated: the run did not finish."
    return markdown_table(["metric", "train", "val", "test"], rows) + note


def _model(config: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    size = f"{record['parameters']:,} parameters" if record.get("parameters") else ""
    work = f", {record['multiply_adds']:,} multiply-adds per example" if record.get("multiply_adds") else ""
    return f"{size}{work}.\n\n{_settings(config)}" if size else _settings(config)


def _training(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return optimizer, schedule and regularization, without augmentations that are off."""
    switches = {"audio": ("time_stretch", "pitch_shift", "noise_snr"), "synonyms": ("probability",)}
    switches["back_translation"] = ("forward",)
    regularization = {
        key: value
        for key, value in config["regularization"].items()
        if key not in switches or any(value.get(name) for name in switches[key])
    }
    return {"optimizer": config["optimizer"], "scheduler": config["scheduler"], "regularization": regularization}


def _length(config: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    seconds = f", {record['seconds']:.0f} s" if record.get("seconds") else ""
    epochs, seed = markdown(config["trainer"]["max_epochs"]), markdown(config["seed"])
    return f"\n\nAt most {epochs} epochs, seed {seed}{seconds}."


def _settings(section: Mapping[str, Any], only_active: bool = False) -> str:
    """Return the table of a part of the config, with `only_active` without settings that are off."""
    rows = [
        [markdown_code(key), markdown_code(value)]
        for key, value in flatten(section)
        if key.rpartition(".")[2] != "_target_" and (not only_active or value not in (None, 0, False))
    ]
    return markdown_table(["setting", "value"], rows)


def _names(spec: DataSpec) -> str:
    lines = []
    for kind in ("class_names", "feature_names", "target_names"):
        if names := getattr(spec, kind):
            shown = ", ".join(map(markdown, names[:20])) + (f", … ({len(names)})" if len(names) > 20 else "")
            lines.append(f"\n\n{kind.replace('_', ' ').capitalize()}: {shown}.")
    return "".join(lines)


def _provenance(folder: RunFolder) -> str:
    record = folder.record
    git = record.get("git") or {}
    revision = str(git.get("revision") or "")
    rows = {
        "run": folder.path.name,
        "command": record.get("command"),
        "started": record.get("started"),
        "config hash": record.get("config_hash"),
        "revision": revision + (" with changes" if git.get("diff") else ""),
        "packages": ", ".join(f"{name} {text}" for name, text in (record.get("packages") or {}).items()),
        "machine": (record.get("hardware") or {}).get("cpu"),
    }
    return markdown_table(["", ""], [[name, markdown_code(value)] for name, value in rows.items() if value])
