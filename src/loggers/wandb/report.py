"""Build a report in Weights & Biases from a comparison: table, curves, parallel coordinates, importance.

Needs wandb-workspaces, the extra ``.[reports]``.
"""

from collections.abc import Sequence
from typing import Any

from src.core.errors import UserError, first_line
from src.core.escape import line
from src.run_store.recorded_run import is_log_scaled

CURVES = 6
"""Maximum number of metrics whose curves are drawn, besides the monitored one."""


def build_report(
    entity: str,
    project: str,
    metric: str,
    mode: str,
    keys: Sequence[str],
    curves: Sequence[str] = (),
    table: str = "",
    runs: Sequence[str] = (),
) -> Any:
    """Return a report (``wandb_workspaces.reports.v2.Report``) without saving it.

    Args:
        entity, project: entity and project of the runs.
        metric: that ranks the runs, such as ``val/loss``, which is ``best/val/loss`` in their summary. Metrics of the test
            have the same name in the summary.
        mode: ``min`` or ``max``.
        keys: the keys of the config that differ, such as ``optimizer.lr``.
        curves: metrics whose curves are drawn besides that of the monitored one.
        table: the table of the comparison, in Markdown.
        runs: the ids of the compared runs; if empty, all runs of the project.

    Raises:
        UserError: without wandb-workspaces.
    """
    wr = _library()
    best = metric if metric.startswith("test/") else f"best/{metric}"
    columns = [f"summary:{best}", *map(_column, keys)]
    runset = wr.Runset(
        entity=entity,
        project=project,
        name=project,
        filters=f"Metric('ID') in {list(runs)}" if runs else "",
        order=[wr.OrderBy(wr.SummaryMetric(best), ascending=mode == "min")],
        pinned_columns=columns,
        visible_columns=["run:displayName", "run:state", "tags:__ALL__", "summary:best_epoch", "summary:parameters"],
    )
    axes = [wr.ParallelCoordinatesPlotColumn(wr.Config(key), log=is_log_scaled(key) or None) for key in keys]
    panels = [
        wr.ParallelCoordinatesPlot(
            title=f"{line(best)} by what differs",
            columns=[*axes, wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(best), inverted=mode == "min" or None)],
            layout=wr.Layout(w=24, h=10),
        ),
        wr.ParameterImportancePlot(with_respect_to=best, layout=wr.Layout(w=24, h=8)),
    ]
    monitored = metric.replace("test/", "val/", 1)  # a metric of the test is one value, not a curve
    names = list(dict.fromkeys([monitored, "train/loss", *curves, "lr"]))[: CURVES + 1]
    lines = [
        wr.LinePlot(title=line(name), x="trainer/global_step", y=[name], layout=wr.Layout(w=12, h=8)) for name in names
    ]
    return wr.Report(
        entity=entity,
        project=project,
        title=f"Comparison of {line(project)}",
        description=f"Ranked by {line(metric)}, {line(mode)}",
        width="fluid",
        blocks=[
            *([wr.H2("Ranking"), wr.MarkdownBlock(table)] if table else []),
            wr.H2("What differs and what it does"),
            wr.PanelGrid(runsets=[runset], panels=panels),
            wr.H2("Curves"),
            wr.PanelGrid(runsets=[runset], panels=lines),
        ],
    )


def _column(key: str) -> str:
    """Return W&B's name of a nested key of the config: ``optimizer.lr`` is ``config:optimizer.value.lr``."""
    first, dot, rest = key.partition(".")
    return f"config:{first}.value{dot}{rest}"


def save_report(report: Any) -> str:
    """Save a report and return its URL.

    Raises:
        UserError: if W&B does not accept it.
    """
    from src.loggers.wandb.connection import key_is_configured

    if not key_is_configured():
        raise UserError("Weights & Biases: no key is configured; run wandb login, or set WANDB_API_KEY")
    try:
        report.save()
    except Exception as error:
        raise UserError(f"Weights & Biases: the report cannot be saved: {first_line(error)}") from error
    return str(report.url)


def _library() -> Any:
    try:
        import wandb_workspaces.reports.v2 as library
    except ImportError as error:
        raise UserError("a report needs wandb-workspaces: pip install -c constraints.txt -e .[reports]") from error
    return library
