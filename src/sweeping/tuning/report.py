"""Results of a tuning: a page with a figure of the gain of each stage, and the best config as an experiment."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from src.config.groups import groups, search_roots
from src.config.validate import check
from src.core.console import format_number
from src.core.errors import UserError
from src.core.escape import line, markdown, markdown_code, mathtext
from src.core.files import walk, write_below
from src.run_store.config_hash import config_hash
from src.run_store.run_folder import RunFolder
from src.sweeping.tuning.stages import Stage, count_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOT_IN_A_FILE = ("paths.", "logger", "tags", "notes", "+", "~")


def write_experiment(
    folder: Path, name: str, stages: Sequence[Stage], config_folders: Sequence[str] = ()
) -> tuple[Path, list[str]]:
    """Write the best job as an option of the group `experiment`, and return its file and the arguments that select it.

    Args:
        folder: folder of the tuning; the file is written to its conf/experiment.
        name: name of the option.
        stages: all of them.
        config_folders: config folders of a user's own options, as entries of ``hydra.searchpath``.
    """
    from src.config.compose import compose

    best = stages[-1].best
    options: list[Any] = []
    keys: dict[str, Any] = {}
    extra: list[str] = []
    all_groups = groups(search_roots([f"hydra.searchpath=[{','.join(config_folders)}]"]))
    for override in best.overrides:
        parsed = OverridesParser.create().parse_override(override)
        key = parsed.key_or_group
        if override.startswith(("+", "~")):
            extra.append(override)
        if override.startswith(_NOT_IN_A_FILE):
            continue
        if key == "experiment":
            options.insert(0, str(parsed.value()))
        elif key in all_groups:
            options.append({f"override /{key}": parsed.value()})
        else:
            _put(keys, key, parsed.value())
    ended = str(RunFolder.open(best.path).record.get("ended"))[:10]
    on = f" on {ended}" if re.fullmatch(r"\d{4}-\d\d-\d\d", ended) else ""
    tuned = f"{name}: tuned to {best.state.metric} {format_number(best.state.value)} in {count_of(stages)} jobs"
    head = f"# @package _global_\n# {line(tuned)}\n# written by python -m src.tune{on}, from {line(best.path)}\n"
    text = yaml.safe_dump({"defaults": options}, sort_keys=False, default_flow_style=None) if options else ""
    text += f"\n{yaml.safe_dump(keys, sort_keys=False, default_flow_style=None)}" if keys else ""
    file = folder / "conf" / "experiment" / f"{name}.yaml"
    for parent, folders, files in walk(folder / "conf", strict=True):  # Hydra will search it for options
        links = [other for other in folders if Path(parent, other).is_symlink()]
        if foreign := [
            *links,
            *(other for other in files if Path(parent, other) != file and not other.endswith(".partial")),
        ]:
            raise UserError(
                f"{Path(parent, foreign[0])}: this file was not written by the tuning; remove it, or the folder"
            )
    write_below(folder, file.relative_to(folder), head + text, make=True)
    chosen = [f"experiment={name}", *extra]
    entries = ",".join(f"'{entry}'" for entry in [*config_folders, f"file://{folder.absolute() / 'conf'}"])
    config = check(compose([f"hydra.searchpath=[{entries}]", *chosen]))
    if config_hash(config.plain()) != best.job.digest:
        raise UserError(f"{file}: this experiment differs from {best.path}, whose record was changed")
    if config_folders:
        return file, [f"hydra.searchpath=[{entries}]", *chosen]
    return file, ["--config-dir", str(folder / "conf"), *chosen]


def _put(keys: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        keys = keys.setdefault(parent, {})
    keys[last] = value


def write_page(folder: Path, title: str, stages: Sequence[Stage], command: Sequence[str]) -> Path:
    """Write tune.md and its figure, plots/tune.png, and return the page.

    Args:
        folder: folder of the tuning.
        title: what was tuned.
        stages: the finished ones.
        command: the arguments that select the result, after ``python -m src.train``.
    """
    from src.run_store.plots import save_figure

    save_figure(folder, "tune", draw(stages, title))
    first, best = stages[0].best, stages[-1].best
    metric = best.state.metric
    lines = [
        f"# {markdown(title)}, tuned",
        "",
        f"| stage | varied | jobs | best {markdown(metric)} | gained | chosen |",
        "|---|---|--:|--:|--:|---|",
        *(_row(stage) for stage in stages),
        "",
        f"From {format_number(first.state.value)} to {format_number(best.state.value)} {markdown(metric)} in "
        f"{count_of(stages)} jobs, one seed each: a gain that is smaller than the difference between seeds may be luck.",
        "",
        "![what each stage gained](plots/tune.png)",
        "",
        f"On the test split, which chose nothing: {_measured(RunFolder.open(best.path).record)}.",
        "",
        "Use it:",
        "",
        f"    python -m src.train {line(shlex.join(command))}",
        "",
        "The sweeps:",
        "",
        *(
            f"- {markdown(stage.name)}: {markdown_code(path.relative_to(folder))}"
            for stage in stages
            for path in stage.folders
        ),
        "",
    ]
    page = folder / "tune.md"
    write_below(folder, page.name, "\n".join(lines))
    return page


def _row(stage: Stage) -> str:
    assert stage.best.state.value is not None
    if not stage.jobs:
        cells = [markdown(stage.name), "nothing here", "0", format_number(stage.best.state.value), "", ""]
    else:
        gained = format_number(stage.gain) if stage.gain else "" if stage.before is None else "0"
        chosen = " ".join(map(markdown_code, stage.chosen)) or ("" if stage.before is None else "as before")
        varied = ", ".join(map(markdown_code, stage.axes))
        cells = [
            markdown(stage.name),
            varied,
            str(len(stage.jobs)),
            format_number(stage.best.state.value),
            gained,
            chosen,
        ]
    return f"| {' | '.join(cells)} |"


def _measured(record: Mapping[str, Any]) -> str:
    final = record.get("final")
    measured = {
        markdown(str(name).partition("/")[2]): value
        for name, value in (final.items() if isinstance(final, Mapping) else ())
        if isinstance(value, int | float)
    }
    return ", ".join(f"{name} {format_number(value)}" for name, value in measured.items())


def draw(stages: Sequence[Stage], title: str) -> "Figure":
    """Draw the value of every job, stage by stage, and the best so far."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    figure.suptitle(mathtext(f"{title}: each stage from the best of the one before"))
    panel = figure.subplots()
    best = [float(stage.best.state.value or 0.0) for stage in stages]
    for place, stage in enumerate(stages):
        values = sorted(state.value for _, state in stage.jobs if state.value is not None)
        spread = [place + 0.5 * (rank + 0.5) / len(values) - 0.25 for rank in range(len(values))]
        panel.plot(spread, values, "o", color="0.6", markersize=4, label="a job" if place == 0 else None)
    panel.step(range(len(stages)), best, where="post", color="tab:red", label="best so far")
    panel.plot(range(len(stages)), best, "o", color="tab:red")
    for place, value in enumerate(best):
        panel.annotate(format_number(value), (place, value), textcoords="offset points", xytext=(0, -14), ha="center")
    values = [state.value for stage in stages for _, state in stage.jobs if state.value is not None]
    if min(values) > 0 and max(values) > 10 * min(values):
        panel.set_yscale("log")
    panel.set_xticks(range(len(stages)), [mathtext(stage.name) for stage in stages])
    panel.set_ylabel(mathtext(stages[0].best.state.metric))
    panel.margins(y=0.15)
    panel.grid(axis="y", alpha=0.3)
    panel.legend()
    return figure
