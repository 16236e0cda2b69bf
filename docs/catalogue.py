"""Writes the tables of README.md that follow from the code: python -m docs.catalogue; a test compares them."""

from src import ROOT
from src.config.groups import CONF, groups, sweeps
from src.config.schema.datamodule import DataOption
from src.config.schema.model import ModelOption
from src.config.schema.registry import SCHEMAS
from src.core.errors import option_name
from src.tasks.registry import TASKS

README = ROOT / "README.md"
BEGIN, END = "<!-- {}: written by python -m docs.catalogue -->\n", "<!-- end -->\n"


def options_table() -> str:
    """Return every group with its options, one line each."""
    lines = []
    for group, options in (groups([CONF]) | {"sweeps (`-m +sweeps=…`)": sweeps()}).items():
        lines += [f"**{group}**", "", "| option | |", "|---|---|"]
        lines += [f"| `{name}` | {text.replace('|', '/')} |" for name, text in options.items()]
        lines.append("")
    return "\n".join(lines)


def pairs_table() -> str:
    """Return which model can be trained on which data."""
    models = {option_name(target): option for target, option in SCHEMAS["model"].items()}
    lines = [
        "| datamodule | task | one input | " + " | ".join(models) + " |",
        "|---|---|---|" + ":-:|" * len(models),
    ]
    for target, data in SCHEMAS["datamodule"].items():
        assert issubclass(data, DataOption)
        marks = ["✓" if _serves(model, data) else "" for model in models.values()]
        lines.append(f"| `{option_name(target)}` | {data.task} | {data.inputs} | " + " | ".join(marks) + " |")
    lines += ["", "| task | | metrics on validation and test | on test alone |", "|---|---|---|---|"]
    lines += [
        f"| {task} | {facts.summary} | {', '.join(facts.metrics)} | {', '.join(facts.test_metrics)} |"
        for task, facts in TASKS.items()
    ]
    return "\n".join(lines) + "\n"


def _serves(model: type, data: type[DataOption]) -> bool:
    assert issubclass(model, ModelOption)
    return data.task in model.tasks and data.inputs in model.inputs


TABLES = {"options": options_table, "pairs": pairs_table}


def written(text: str) -> str:
    """Return the text with every table between its marks made anew."""
    for key, table in TABLES.items():
        head, begin, rest = text.partition(BEGIN.format(key))
        _, end, tail = rest.partition(END)
        assert begin and end, f"README.md has no marks for {key}"
        text = f"{head}{begin}\n{table()}\n{end}{tail}"
    return text


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
