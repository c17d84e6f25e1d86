"""Interactive charts: every :class:`~kvplan.reporting.figures.Figure` as a plotly figure.

Colours are written as ``var(--name)``; the page resolves them for the theme it shows, so one figure serves
light, dark and print. The only module that imports plotly.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import plotly
import plotly.graph_objects as go

from kvplan.errors import EnvironmentLacks
from kvplan.reporting.figure import Axis, Figure, Line, Mark, Rule
from kvplan.reporting.scales import bounds, label_place, position, ticks
from kvplan.reporting.wording import seconds

MARGIN = {"l": 56, "r": 16, "t": 44, "b": 48}


def plotly_json(figure: Figure) -> dict[str, Any]:
    """``{"data": [...], "layout": {...}}`` for ``Plotly.newPlot``; plain lists, no default template."""
    traces = [_bar(figure, index) for index in range(len(figure.segments))]
    traces += [_line(line, figure) for line in figure.lines]
    traces += [_mark(mark, figure) for mark in figure.marks]
    chart = go.Figure(data=traces, layout=_layout(figure))
    document: dict[str, Any] = chart.to_plotly_json()
    document["layout"].pop("template", None)
    if _unified(figure):
        # Newer than the oldest plotly we accept, so not through go.Layout; older ones ignore it.
        document["layout"]["xaxis"]["unifiedhovertitle"] = {"text": f"%{{x:.4~r}} {_unit(figure.x)}"}
    return document


def library() -> bytes:
    """The plotly.js that came with the installed plotly, licence header included.

    Raises:
        EnvironmentLacks: this plotly was installed without it.
    """
    path = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    if not path.is_file():
        raise EnvironmentLacks(
            "the installed plotly has no plotly.min.js", where=str(path), hint="reinstall plotly"
        )
    return path.read_bytes()


def colour(number: int) -> str:
    """The CSS variable of a colour; 0 is ink."""
    return f"var(--c{number})" if number else "var(--ink)"


def escaped(text: str) -> str:
    """Text for plotly, which reads ``<b>``-like tags and entities in names."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _line(line: Line, figure: Figure) -> go.Scatter:
    value = {"percent": "%{y:.1%}", "seconds": "%{customdata}"}.get(figure.y.unit, "%{y:,.4~r}")
    at = {"seconds": "%{text}", "tokens": "%{x:,} tokens"}.get(
        figure.x.unit, f"%{{x:.4~r}} {_unit(figure.x)}"
    )
    places = None
    if figure.x.names:
        at, places = "%{text}", [escaped(figure.x.names[int(x) - 1]) for x in line.x]
    elif figure.x.unit == "seconds":
        places = [seconds(x) for x in line.x]
    width = 2.5 if line.heavy else 1.0 if line.faint else 1.75
    shade = "var(--c8)" if line.faint else colour(line.colour)
    return go.Scatter(
        x=line.x,
        y=line.y,
        text=places,
        customdata=[seconds(y) for y in line.y] if figure.y.unit == "seconds" else None,
        name=escaped(line.name),
        mode="markers" if not line.joined else "lines+markers" if line.symbol else "lines",
        line={"color": shade, "width": width, "dash": "dash" if line.dashed else "solid"},
        marker={"symbol": line.symbol, "size": 5 if line.faint else 7} if line.symbol else None,
        fill={"zero": "tozeroy", "previous": "tonexty"}.get(line.fill or ""),
        fillcolor=f"var(--f{line.colour})" if line.fill else None,
        hovertemplate=value if _unified(figure) else f"{value} at {at}<extra></extra>",
        showlegend=len(figure.lines) > 1,
        connectgaps=False,
    )


def _unified(figure: Figure) -> bool:
    """Whether hovering reads all lines at once: over time it should, elsewhere the nearest point."""
    return figure.x.unit == "time"


def _unit(axis: Axis) -> str:
    """The unit at the end of an axis title: ``'time, minutes'`` -> ``'minutes'``."""
    return axis.title.rsplit(", ", 1)[-1]


def _mark(mark: Mark, figure: Figure) -> go.Scatter:
    return go.Scatter(
        x=[mark.x],
        y=[mark.y],
        mode="markers",
        marker={
            "symbol": mark.symbol,
            "size": 12 if figure.y.log else 9,
            "color": colour(mark.colour),
            "line": {"color": "var(--paper)", "width": 1.5},
        },
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=False,
    )


def _bar(figure: Figure, index: int) -> go.Bar:
    segment = figure.segments[index]
    return go.Bar(
        x=[segment.value],
        y=[""],
        orientation="h",
        name=f"{escaped(segment.name)} {escaped(segment.shown)}",
        marker={
            "color": "var(--quiet)" if segment.quiet else colour(segment.colour),
            "line": {"color": "var(--paper)", "width": 1.5},
        },
        hovertemplate=f"{escaped(segment.name)}: %{{x:.4~r}} {escaped(figure.x.title)}<extra></extra>",
    )


def _layout(figure: Figure) -> go.Layout:
    bar = bool(figure.segments)
    layout = go.Layout(
        template=go.layout.Template(),
        autosize=True,
        height=height(figure),
        margin={**MARGIN, "t": 4, "l": 24, "b": 64} if bar else MARGIN,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "var(--soft)", "size": 12},
        hoverlabel={"bgcolor": "var(--paper)", "bordercolor": "var(--rule)", "font": {"color": "var(--ink)"}},
        hovermode="x unified" if _unified(figure) else "closest",
        barmode="stack",
        dragmode="zoom",
        legend={
            "orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom",
            "traceorder": "normal", "font": {"color": "var(--ink)"}, "bgcolor": "rgba(0,0,0,0)",
        },
        xaxis=_axis(figure.x, across=True),
        yaxis={"visible": False, "fixedrange": True} if bar else _axis(figure.y, across=False),
    )  # fmt: skip
    if bar:
        layout.legend.update(x=0, xanchor="left", yref="container", y=0, yanchor="bottom")
        layout.xaxis.update(title=None, ticksuffix=f" {figure.x.title}", showticksuffix="first")
    else:
        labels = [_rule_label(rule, figure) for rule in figure.rules]
        labels += [_mark_label(mark, figure) for mark in figure.marks]
        layout.annotations = [_axis_title(figure), *labels]
        layout.shapes = [_rule(rule) for rule in figure.rules]
    return layout


def height(figure: Figure) -> int:
    """Pixels a chart is high."""
    return 140 if figure.segments else 340 if figure.key == "capacity" else 300


def _axis(axis: Axis, *, across: bool) -> dict[str, Any]:
    low, high = bounds(axis)
    common = {
        "showgrid": not across, "gridcolor": "var(--grid)", "zeroline": False, "showline": across,
        "linecolor": "var(--rule)", "ticks": "outside" if across else "", "tickcolor": "var(--rule)",
        "ticklen": 4, "tickangle": 0, "automargin": True, "type": "log" if axis.log else "linear",
        "title": {"text": escaped(axis.title) if across else "", "standoff": 8, "font": {"size": 12}},
    }  # fmt: skip
    if axis.log or axis.names or axis.unit == "seconds":
        marks = ticks(axis)
        return {
            **common,
            # Names are as long as they are: on a narrow screen they turn.
            "tickangle": None if axis.names else 0,
            "range": [math.log10(low), math.log10(high)] if axis.log else [low, high],
            "tickvals": [value for value, _ in marks],
            "ticktext": [escaped(text) for _, text in marks],
        }
    form = ".0%" if axis.unit == "percent" else "~s" if high >= 10_000 else ",~r"
    if axis.unit in ("point", "whole"):
        common["dtick"] = max(1, math.ceil((high - low) / 10))
        common["tick0"] = 1 if axis.unit == "point" else 0
    return {**common, "range": [low, high], "tickformat": form, "nticks": 8}


def _axis_title(figure: Figure) -> dict[str, Any]:
    """The y axis is titled above it, where it reads without turning the head."""
    return {
        "text": escaped(figure.y.title), "xref": "paper", "yref": "paper", "x": 0, "y": 1,
        "xanchor": "left", "yanchor": "bottom", "xshift": 12 - MARGIN["l"],
        "yshift": 22 if figure.x.unit == "seconds" else 8,  # leave the row below to labels of limits
        "showarrow": False, "font": {"size": 12, "color": "var(--soft)"},
    }  # fmt: skip


def _mark_label(mark: Mark, figure: Figure) -> dict[str, Any]:
    """Beside the point, on the side away from the line."""
    left, height = label_place(mark, figure)
    return {
        "text": escaped(mark.name), "showarrow": False, "font": {"size": 12, "color": "var(--ink)"},
        "x": math.log10(mark.x) if figure.x.log else mark.x,
        "y": math.log10(mark.y) if figure.y.log else mark.y,
        "xanchor": "right" if left else "left", "xshift": -6 if left else 6,
        "yanchor": {"below": "top", "beside": "middle", "above": "bottom"}[height],
        "yshift": {"below": -5, "beside": 4, "above": 6}[height],
    }  # fmt: skip


def _rule_colour(rule: Rule) -> str:
    return "var(--rule-strong)" if rule.passed is None else "var(--good)" if rule.passed else "var(--bad)"


def _rule(rule: Rule) -> dict[str, Any]:
    line = {"color": _rule_colour(rule), "width": 1.5, "dash": "dot"}
    along, across = ("x", "y") if rule.across == "x" else ("y", "x")
    ends = {f"{along}0": rule.value, f"{along}1": rule.value, f"{across}0": 0, f"{across}1": 1}
    return {"type": "line", f"{across}ref": "paper", **ends, "line": line}


def _rule_label(rule: Rule, figure: Figure) -> dict[str, Any]:
    """At the rule's end, outside the data: above a vertical one, at the right of a horizontal one."""
    font = {"size": 12, "color": _rule_colour(rule)}
    base = {"text": escaped(rule.name), "showarrow": False, "font": font, "yanchor": "bottom"}
    if rule.across == "x":
        at = math.log10(rule.value) if figure.x.log else rule.value
        return {**base, "x": at, "yref": "paper", "y": 1, "xanchor": _side(position(rule.value, figure.x))}
    height = math.log10(rule.value) if figure.y.log else rule.value
    return {**base, "y": height, "xref": "paper", "x": 1, "xanchor": "right"}


def _side(share: float) -> str:
    """Keep a label near either end of the axis from running over it."""
    return "left" if share < 0.25 else "right" if share > 0.75 else "center"
