"""Write the tables of README.md that are generated from the code: python -m docs.catalogue. A test compares them."""

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
    """Return the table of every group, with one line per option."""
    lines = []
    for group, options in (groups([CONF]) | {"sweeps (`-m +sweeps=…`)": sweeps()}).items():
        lines += [f"**{group}**", "", "| option | |", "|---|---|"]
        lines += [f"| `{name}` | {text.replace('|', '/')} |" for name, text in options.items()]
        lines.append("")
    return "\n".join(lines)


def pairs_table() -> str:
    """Return the table of compatible models and data, and that of the tasks."""
    models = {option_name(target): option for target, option in SCHEMAS["model"].items()}
    lines = [
        "| datamodule | task | one input | " + " | ".join(models) + " |",
        "|---|---|---|" + ":-:|" * len(models),
    ]
    for target, data in SCHEMAS["datamodule"].items():
        assert issubclass(data, DataOption)
        cells = ["✓" if _compatible(model, data) else "" for model in models.values()]
        lines.append(f"| `{option_name(target)}` | {data.task} | {data.inputs} | " + " | ".join(cells) + " |")
    lines += ["", "| task | | metrics on validation and test | only on test |", "|---|---|---|---|"]
    lines += [
        f"| {task} | {task_info.summary} | {', '.join(task_info.metrics)} | {', '.join(task_info.test_metrics)} |"
        for task, task_info in TASKS.items()
    ]
    return "\n".join(lines) + "\n"


def _compatible(model: type, data: type[DataOption]) -> bool:
    assert issubclass(model, ModelOption)
    return data.task in model.tasks and data.inputs in model.inputs


TABLES = {"options": options_table, "pairs": pairs_table}


def update_tables(text: str) -> str:
    """Return the text with new tables between their markers."""
    for key, table in TABLES.items():
        head, begin, rest = text.partition(BEGIN.format(key))
        _, end, tail = rest.partition(END)
        assert begin and end, f"README.md has no markers for {key}"
        text = f"{head}{begin}\n{table()}\n{end}{tail}"
    return text


if __name__ == "__main__":
    README.write_text(update_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
