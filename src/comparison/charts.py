"""Charts of a comparison in Vega-Lite, defined once for the page, for PNG and SVG files, and for Weights & Biases.

Each function returns a chart that reads one of the named data sets of `src.comparison.chart_data`; `with_data` adds the data.
Names of runs and keys occur in data, titles and constants only, never in a field name or an expression, so that they are shown
as text. A chart has these signals, which the page sets:

- ``highlighted_row``: index of the row that is emphasized; -1 for none.
- ``highlighted_epoch``: epoch of the emphasized point of a curve; -1 for none.
- ``labels``: labels of the rows that the legend of curves lists.

Marks are made transparent by the opacity of their fill and stroke: for the opacity of a mark, a PNG file needs a layer for each
mark, which takes seconds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from src.comparison.chart_data import Axis, CurveScale, Records, chart_text
from src.comparison.importance import Importance

WIDTH = 360
"""Width of a small chart in pixels. The page uses the width of its column instead."""
PALETTES = {
    "light": [
        "#0b62b5",
        "#c2410c",
        "#0f7a4d",
        "#a21caf",
        "#a16207",
        "#0e7490",
        "#be123c",
        "#6d28d9",
        "#4d7c0f",
        "#475569",
    ],
    "dark": [
        "#6cb2ff",
        "#ff9d5c",
        "#4fd19a",
        "#e58bf2",
        "#e6c04a",
        "#55cfe6",
        "#ff8aa5",
        "#b79bff",
        "#a8d64a",
        "#b4c0d0",
    ],
}
_SHADES = {
    "light": {"text": "#1b1f24", "soft": "#57606a", "grid": "#e8ebef", "ramp": ["#c3cad3", "#0b5cad"]},
    "dark": {"text": "#e6eaf0", "soft": "#a2adba", "grid": "#252c35", "ramp": ["#4a5563", "#76b5f5"]},
}


def theme(mode: str) -> dict[str, Any]:
    """Return the Vega-Lite config of all charts.

    Args:
        mode: ``light`` or ``dark``.
    """
    shades, palette = _SHADES[mode], PALETTES[mode]
    return {
        "aria": False,  # Vega-Lite writes titles into the expressions of ARIA descriptions
        "background": "transparent" if mode == "dark" else "white",
        "font": "sans-serif",
        "view": {"stroke": None},
        "mark": {"color": palette[0]},
        "text": {"color": shades["text"]},
        "rule": {"color": shades["soft"]},
        "axis": {
            "labelColor": shades["soft"],
            "titleColor": shades["text"],
            "titleFontWeight": "normal",
            "gridColor": shades["grid"],
            "domainColor": shades["soft"],
            "tickColor": shades["soft"],
            "labelLimit": 130,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleLimit": 600,
        },
        "legend": {
            "labelColor": shades["text"],
            "titleColor": shades["soft"],
            "labelLimit": 800,
            "labelFontSize": 12,
            "symbolLimit": 12,
        },
        "title": {
            "color": shades["text"],
            "anchor": "start",
            "fontSize": 13,
            "subtitleColor": shades["soft"],
            "limit": 900,
        },
        "range": {"category": palette, "ramp": shades["ramp"], "heatmap": {"scheme": "viridis"}},
    }


_HIGHLIGHTED_ROW = alt.param(name="highlighted_row", value=-1)
_HIGHLIGHTED_EPOCH = alt.param(name="highlighted_epoch", value=-1)
_IS_HIGHLIGHTED = "datum.row === highlighted_row"


def learning_curves(
    metric: str, labels: Sequence[str], scale: CurveScale, interactive: bool = True
) -> alt.TopLevelMixin:
    """Return the chart of a metric by epoch: mean and range of the repetitions of each row, validation solid, training dashed.

    Args:
        metric: name of the metric, such as ``val/loss``.
        labels: labels of all rows that have curves, in the order of their colours.
        scale: axis of the metric.
        interactive: whether the chart can be moved and zoomed, so that curves are clipped at its border. For each clipped curve a
            PNG file needs a layer, which takes seconds.
    """
    limits = {"domainMin": scale.lowest, "domainMax": scale.highest}
    y_scale = _scale(
        scale.logarithmic, clamp=not interactive, **{name: limit for name, limit in limits.items() if limit is not None}
    )
    color = alt.Color(
        "label:N",
        scale=alt.Scale(domain=list(labels)),
        legend=alt.Legend(
            title=None,
            values=alt.expr("labels"),
            orient="bottom",
            direction="vertical",
            symbolType="stroke",
            symbolStrokeWidth=3,
            symbolOpacity=1,
        ),
    )
    settings = [alt.param(name="labels", value=list(labels)), alt.param(name="logarithmic", value=scale.logarithmic)]
    legend = alt.selection_point(name="legend", fields=["label"], bind="legend")
    zoom = alt.selection_interval(name="zoom", bind="scales", zoom="wheel![event.ctrlKey]")
    nearest = alt.selection_point(name="nearest", fields=["row", "epoch"], on="pointermove", nearest=True, empty=False)
    base = (
        alt.Chart(alt.NamedData("curves"))
        .transform_calculate(is_point="length(datum.epoch) == 1")
        .transform_flatten(["epoch", "mean", "low", "high"])
        .transform_filter("!logarithmic || datum.mean > 0")
        .transform_calculate(text="'epoch ' + datum.epoch + ': ' + format(datum.mean, '.4~g') + ', ' + datum.label")
        .encode(
            x=alt.X(
                "epoch:Q",
                title="epoch",
                axis=alt.Axis(tickMinStep=1, format="d"),
                scale=alt.Scale(zero=False, nice=False),
            ),
            y=alt.Y("mean:Q", title=chart_text(metric), scale=y_scale),
            color=color,
            detail="row:N",
        )
    )
    opacity = alt.when(legend).then(alt.value(1)).otherwise(alt.value(0.1))
    repeated = base.transform_filter("datum.high > datum.low && (!logarithmic || datum.low > 0)")
    ranges = repeated.mark_area(clip=interactive, fillOpacity=0.15).encode(
        y=alt.Y("low:Q", title=chart_text(metric)), y2="high:Q"
    )
    lines = base.mark_line(clip=interactive, strokeWidth=1.8).encode(
        strokeOpacity=opacity,
        strokeDash=alt.StrokeDash(
            "split:N", scale=alt.Scale(domain=["val", "train", ""], range=[[1, 0], [5, 3], [1, 0]]), legend=None
        ),
    )
    highlighted = (
        base.transform_filter(_IS_HIGHLIGHTED).mark_line(clip=interactive, strokeWidth=4).encode(detail="split:N")
    )
    single = base.transform_filter("datum.is_point").mark_point(filled=True, size=50, opacity=1)
    cursor = (
        base.transform_filter(_IS_HIGHLIGHTED)
        .transform_filter("datum.epoch === highlighted_epoch")
        .mark_point(filled=True, size=90, opacity=1)
    )
    # the mark under the pointer is the cell around the nearest point, which contains the point
    tooltip: Any = alt.expr("datum.datum ? datum.datum.text : datum.text")
    targets = base.mark_point(opacity=1, fillOpacity=0, strokeOpacity=0, size=1, tooltip=tooltip).add_params(nearest)
    return (
        alt.layer(
            ranges.transform_filter("datum.high > datum.low && (!logarithmic || datum.low > 0)"),
            lines,
            highlighted,
            single,
            cursor,
            targets,
        )
        .add_params(*settings, _HIGHLIGHTED_ROW, _HIGHLIGHTED_EPOCH, legend, zoom)
        .properties(width=800, height=360)
    )


def _scale(logarithmic: bool, **settings: Any) -> alt.Scale:
    """Return a scale that need not include 0."""
    return alt.Scale(type="log", **settings) if logarithmic else alt.Scale(zero=False, **settings)


def response(metric: str, index: int, key: Axis, logarithmic: bool) -> alt.TopLevelMixin:
    """Return the chart of the metric against one hyperparameter, with the standard deviation of repetitions.

    Args:
        metric: name of the metric.
        index: place of the hyperparameter in the data set ``rows``.
        key: its axis.
        logarithmic: whether the axis of the metric is logarithmic.
    """
    if key.names:
        axis = alt.Axis(labelAngle=-30 if _crowded(key) else 0)
        x = alt.X(f"value{index}:N", title=key.key, scale=alt.Scale(domain=list(key.names)), sort=None, axis=axis)
    else:
        few = sorted(set(key.values))
        axis = alt.Axis(format=".4~g", values=few) if 1 < len(few) <= 5 else alt.Axis(format=".4~g", tickCount=5)
        scale = _scale(key.logarithmic, padding=12)
        x = alt.X(f"value{index}:Q", title=key.key, axis=axis, scale=scale)
    y = alt.Y("score:Q", title=chart_text(metric), axis=alt.Axis(format=".4~g"), scale=_scale(logarithmic))
    base = alt.Chart(alt.NamedData("rows")).encode(x=x, y=y)
    brush = alt.selection_interval(name=f"brush{index}", encodings=["x", "y"])
    errors = base.transform_filter("datum.high > datum.low").mark_rule(strokeOpacity=0.5).encode(y="low:Q", y2="high:Q")
    points = (
        base.mark_point(filled=True, size=45, opacity=1, fillOpacity=0.7)
        .encode(color=_QUALITY, tooltip="text:N")
        .add_params(brush)
    )
    highlighted = base.transform_filter(_IS_HIGHLIGHTED).mark_point(size=140, strokeWidth=3)
    return alt.layer(errors, points, highlighted).add_params(_HIGHLIGHTED_ROW).properties(width=WIDTH, height=230)


_QUALITY = alt.Color("quality:Q", scale=alt.Scale(domain=[0, 1]), legend=None)


def _crowded(key: Axis) -> bool:
    return sum(len(name) + 2 for name in key.names) > 45


def heat_map(metric: str, keys: Sequence[str], down: int = 0, across: int = 1) -> alt.TopLevelMixin:
    """Return the chart of the metric over two hyperparameters: the mean of the rows of each cell, coloured by its rank.

    Args:
        metric: name of the metric.
        keys: all hyperparameters of the data set ``rows``, from which the page lets the reader choose.
        down, across: places of the two that are shown first.
    """
    options = list(range(len(keys)))
    selectors = [
        alt.param(name=name, value=value, bind=alt.binding_select(options=options, labels=list(keys), name=f"{name} "))
        for name, value in (("down", down), ("across", across))
    ]
    base = (
        alt.Chart(alt.NamedData("rows"))
        .transform_calculate(
            x="datum['cell' + across]", y="datum['cell' + down]", i="datum['place' + across]", j="datum['place' + down]"
        )
        .transform_aggregate(mean="mean(score)", count="count()", worth="mean(worth)", groupby=["x", "y", "i", "j"])
        .transform_window(rank="rank()", sort=[alt.SortField("worth")])
        .transform_joinaggregate(cells="count()")
        .transform_calculate(
            share="datum.cells > 1 ? (datum.rank - 1) / (datum.cells - 1) : 1",
            number="format(datum.mean, '.4~g')",
            text="format(datum.mean, '.4~g') + ', mean of ' + datum.count + (datum.count > 1 ? ' rows' : ' row')",
        )
        .encode(
            x=alt.X(
                "x:N",
                title=None,
                sort=alt.EncodingSortField("i", op="min"),
                axis=alt.Axis(labelAngle=-30, orient="top"),
            ),
            y=alt.Y("y:N", title=None, sort=alt.EncodingSortField("j", op="min")),
        )
    )
    cells = base.mark_rect().encode(
        color=alt.Color("share:Q", scale=alt.Scale(domain=[0, 1]), legend=None), tooltip="text:N"
    )
    dark = alt.when("datum.share < 0.6").then(alt.value("white")).otherwise(alt.value("black"))
    return (
        alt.layer(cells, base.mark_text(fontSize=11).encode(text="number:N", color=dark))
        .add_params(alt.param(name="keys", value=list(keys)), *selectors)
        .properties(
            width=alt.Step(62),
            height=alt.Step(26),
            title=alt.Title(
                alt.expr("keys[down] + ' (down) and ' + keys[across] + ' (across)'"),
                subtitle=f"mean {chart_text(metric)} of the rows of a cell; yellow is best",
            ),
        )
    )


def parallel_coordinates(axes: Sequence[Axis]) -> alt.TopLevelMixin:
    """Return the chart with a line for each row over all hyperparameters and the metric.

    Args:
        axes: those of the hyperparameters, and last that of the metric.
    """
    fields: list[Any] = [f"height{index}" for index in range(len(axes))]
    titles = alt.param(name="titles", value={field: axis.key for field, axis in zip(fields, axes, strict=True)})
    x = alt.X(
        "axis:N",
        title=None,
        sort=None,
        scale=alt.Scale(type="point", padding=0.3, domain=fields),
        axis=alt.Axis(
            labelExpr="titles[datum.value]", orient="top", domain=False, ticks=False, labelAngle=0, offset=14
        ),
    )
    y = alt.Y("height:Q", axis=None, scale=alt.Scale(domain=[0, 1]))
    base = alt.Chart(alt.NamedData("rows")).transform_fold(fields, as_=["axis", "height"])
    shape: Any = {"interpolate": "monotone", "clip": False}
    lines = base.mark_line(strokeWidth=1.3, strokeOpacity=0.7, **shape).encode(
        x=x, y=y, detail="row:N", color=_QUALITY, order=alt.Order("rank:Q", sort="descending"), tooltip="text:N"
    )
    highlighted = (
        base.transform_filter(_IS_HIGHLIGHTED).mark_line(strokeWidth=4, **shape).encode(x=x, y=y, detail="row:N")
    )
    rules = alt.Chart(alt.Data(values=[{"axis": field} for field in fields])).mark_rule(strokeOpacity=0.6).encode(x=x)
    ticks = alt.Chart(
        alt.Data(values=[tick for field, axis in zip(fields, axes, strict=True) for tick in _ticks(field, axis)])
    )
    labels = ticks.mark_text(align="left", dx=5, fontSize=10, limit=110).encode(x=x, y=y, text="label:N")
    return (
        alt.layer(rules, lines, highlighted, labels)
        .add_params(titles, _HIGHLIGHTED_ROW)
        .properties(width=max(500, 150 * len(axes)), height=300)
    )


def _ticks(field: str, axis: Axis) -> list[dict[str, Any]]:
    """Return at most eight labelled heights of an axis of parallel coordinates."""
    places = sorted(set(zip(axis.heights(), axis.labels(), strict=True)))
    if len(places) > 8:
        places = [places[i * (len(places) - 1) // 5] for i in range(6)]
    return [{"axis": field, "height": height, "label": label} for height, label in places]


def importance_bars(importance: Importance) -> alt.TopLevelMixin:
    """Return the chart of the importance of each hyperparameter, with its standard deviation over folds."""
    keys = [chart_text(key) for key in importance.keys]
    columns = zip(keys, importance.loss, importance.deviation, strict=True)
    values = [{"key": key, "loss": loss, "low": loss - sd, "high": loss + sd} for key, loss, sd in columns]
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y(
            "key:N",
            title=None,
            sort=None,
            scale=alt.Scale(domain=keys),
            axis=alt.Axis(labelLimit=200),
        )
    )
    bars = base.mark_bar(height=14).encode(x=alt.X("loss:Q", title="loss of R² of the rank when the key is shuffled"))
    return alt.layer(bars, base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")).properties(
        width=WIDTH, height=28 * len(values)
    )


def confusion_matrix(classes: Sequence[str]) -> alt.TopLevelMixin:
    """Return the chart of the predicted classes of each true class.

    Args:
        classes: names of the classes.
    """
    names = alt.param(name="names", value=[chart_text(name) for name in classes])
    base = (
        alt.Chart(alt.NamedData("confusion"))
        .transform_flatten(["count"])
        .transform_window(place="row_number()", groupby=["true"])
        .transform_joinaggregate(total="sum(count)", groupby=["true"])
        .transform_calculate(
            predicted="datum.place - 1",
            share="datum.total ? datum.count / datum.total : 0",
            text="names[datum.true] + ' predicted as ' + names[datum.place - 1] + ': ' + datum.count + ' of ' + datum.total",
        )
        .transform_filter("datum.count > 0")
    )
    axis: Any = {"labelExpr": "names[datum.value]", "labelOverlap": True}
    domain = alt.Scale(domain=list(range(len(classes))))
    step = alt.Step(max(4, min(34, 700 // len(classes))))
    encoded = base.encode(
        x=alt.X(
            "predicted:O",
            title="predicted class of the test split",
            scale=domain,
            axis=alt.Axis(labelAngle=-45, **axis),
        ),
        y=alt.Y("true:O", title="true class", scale=domain, axis=alt.Axis(**axis)),
    )
    share = alt.Color("share:Q", scale=alt.Scale(domain=[0, 1], scheme="blues"), legend=None)
    layers = [encoded.mark_rect().encode(color=share, tooltip="text:N")]
    if len(classes) <= 25:
        dark = alt.when("datum.share > 0.6").then(alt.value("white")).otherwise(alt.value("black"))
        layers.append(encoded.mark_text(fontSize=11).encode(text="count:Q", color=dark))
    return alt.layer(*layers).add_params(names).properties(width=step, height=step)


def predictions() -> alt.TopLevelMixin:
    """Return the chart of predicted numbers against targets, with the line on which both are equal."""
    base = alt.Chart(alt.NamedData("predictions")).transform_flatten(["true", "predicted"])
    x = alt.X("true:Q", title="target of the test split", scale=alt.Scale(zero=False))
    y = alt.Y("predicted:Q", title="prediction", scale=alt.Scale(zero=False))
    points = base.mark_point(filled=True, size=22, opacity=1, fillOpacity=0.55).encode(x=x, y=y)
    equal = base.transform_aggregate(low="min(true)", high="max(true)").mark_rule(strokeDash=[5, 4])
    diagonal = equal.encode(
        x=alt.X("low:Q", title="target of the test split"),
        y=alt.Y("low:Q", title="prediction"),
        x2="high:Q",
        y2="high:Q",
    )
    return alt.layer(diagonal, points).properties(width=WIDTH, height=WIDTH)


def side_by_side(panels: Sequence[Any]) -> alt.TopLevelMixin:
    """Return one chart of several, three in a row."""
    return alt.concat(*panels, columns=3)


def specification(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """Return the Vega-Lite specification of a chart, without data and theme.

    It is not validated, which takes longer than everything else; the tests do so.
    """
    document: dict[str, Any] = chart.to_dict(validate=False)
    return document


def with_data(chart: alt.TopLevelMixin, datasets: Mapping[str, Records]) -> dict[str, Any]:
    """Return the Vega-Lite specification of a chart that contains its data, in the light theme."""
    document = specification(chart)
    return {**document, "datasets": {**document.get("datasets", {}), **datasets}, "config": theme("light")}
