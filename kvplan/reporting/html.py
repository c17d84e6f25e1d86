"""A result as one self-contained page: no file beside it, no request to anywhere.

The page is complete without its script: tables, summaries and static drawings. The script, where it runs,
unpacks plotly.js (gzip, base64, ``DecompressionStream``) and swaps the drawings for interactive charts. The
content security policy names each script by its hash, so text from a result that slipped through escaping
still could not run. Equal results give equal bytes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from typing import Any

from kvplan.reporting import tables
from kvplan.reporting.absence import absent
from kvplan.reporting.advice import advice
from kvplan.reporting.cautions import cautions, unknowns
from kvplan.reporting.cost import money
from kvplan.reporting.figure import Figure
from kvplan.reporting.figures import figures
from kvplan.reporting.palette import DARK, LIGHT, declarations
from kvplan.reporting.result import Result, result_json
from kvplan.reporting.result_csv import result_csv
from kvplan.reporting.series import MAX_POINTS, downsampled
from kvplan.reporting.step_time import step_time_table
from kvplan.reporting.strategies import member, replica_tables, strategies_tables
from kvplan.reporting.svg import render as drawing
from kvplan.reporting.verdict import MINORITY, reused_ratio, subject, verdict
from kvplan.reporting.wording import count, decimal, percent, plain, seconds

MAX_EMBEDDED_BYTES = 4_000_000
"""A result longer than this is not embedded for download: the page would be slow to open and to send."""

MAX_LISTED = 100
"""Most warnings or notes listed; the others are counted."""


def render_html(result: Result) -> str:
    """The page of a result.

    Raises:
        EnvironmentLacks: the installed plotly came without plotly.js.
    """
    shown = figures(result)
    embedded = result_json(result, indent=None)
    return page("report.html.j2", shown, _content(result), embedded=embedded, csv=result_csv(result))


def page(template: str, shown: dict[str, Figure], content: dict[str, Any], *, embedded: str, csv: str) -> str:
    """A page of ``template``, complete with its charts, its styles and what can be downloaded from it.

    Args:
        shown: charts by key.
        content: what the template escapes.
        embedded: the whole document as JSON; left out where it is too long.
        csv: the same as a table.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from kvplan.reporting.charts import library

    loader = PackageLoader("kvplan.reporting", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["tie"] = tie
    plotly, theme, script, style = (
        library(),
        *(loader.get_source(environment, name)[0] for name in ("theme.js", "page.js", "page.css")),
    )
    # Everything that enters the page unescaped is listed here: our own files, JSON, and base64.
    trusted = {
        "style": _palette_css() + style,
        "theme_script": theme,
        "page_script": script,
        "payload": script_safe(_payload(shown, csv)),
        "result_json": script_safe(embedded if len(embedded.encode()) <= MAX_EMBEDDED_BYTES else ""),
        "plotly": base64.b64encode(gzip.compress(plotly, 9, mtime=0)).decode(),
    }
    drawings = {key: Markup(picture) for key, picture in _drawings(shown).items()}
    return environment.get_template(template).render(
        **{name: Markup(text) for name, text in trusted.items()},
        **content,
        charts={
            key: {"title": figure.title, "summary": figure.summary, "drawing": drawings[key]}
            for key, figure in shown.items()
        },
        abreast=_ABREAST,
        csp=_policy(theme.encode(), script.encode(), plotly),
    )


def _content(result: Result) -> dict[str, Any]:
    """What the template escapes: text, tables and lists."""
    return {
        "r": result,
        "kind": "capacity report",
        "schema": result.schema_,
        "whole": "result.json",
        "title": f"{subject(result)} · kvplan",
        "verdict": verdict(result),
        "advice": advice(result),
        "key_figures": _key_figures(result),
        "cautions": cautions(result),
        "unknowns": unknowns(result),
        "tables": {
            "step_time": step_time_table(result),
            **{name: getattr(tables, f"{name}_table")(result) for name in _TABLES},
        },
        "strategies": strategies_tables(result),
        "replicas": replica_tables(result),
        "member": member(result),
        "absent": absent(result),
        "warnings": [plain(text) for text in result.warnings[:MAX_LISTED]],
        "warnings_left": max(0, len(result.warnings) - MAX_LISTED),
        "notes": [plain(text) for text in result.trace.notes[:MAX_LISTED]],
        "statement": plain(result.accuracy.statement),
        "accuracy_source": plain(result.accuracy.source),
        "command": plain(result.provenance.command, 4000),
        "downsampled": downsampled(result),
        "max_points": MAX_POINTS,
    }


def _payload(shown: dict[str, Figure], csv: str) -> str:
    from kvplan.reporting.charts import plotly_json

    payload = {"charts": {key: plotly_json(figure) for key, figure in shown.items()}, "csv": csv}
    return json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _palette_css() -> str:
    dark = declarations(DARK)
    return (
        f":root{{{declarations(LIGHT)}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}"
        f"@media screen{{:root[data-theme=dark]{{{dark}}}}}\n"
    )


_TABLES = (
    "inputs", "scenario", "memory", "capacity", "series", "latency", "intervals", "totals", "accuracy",
    "trace", "files", "versions",
)  # fmt: skip


def tie(text: str) -> str:
    """Keep a number and its unit, or how many of something there are, on one line."""
    text = re.sub(r"(?<=\d) (?=(?:[nmµ]?s|min|h|[KMGT]?i?B|TB/s)\b)", "\u00a0", text)
    return re.sub(r"(?<=\d) x (?=\w)", "\u00a0x\u00a0", text)


def script_safe(text: str) -> str:
    """JSON text that cannot end or open an HTML element; it parses to the same value."""
    return (
        text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        .replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )  # fmt: skip


def _policy(*scripts: bytes) -> str:
    digests = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _drawings(shown: dict[str, Figure]) -> dict[str, str]:
    """The static drawing of each chart; those of latencies stand three abreast."""
    from kvplan.reporting.charts import height

    return {
        key: drawing(figure, width=300 if key in _ABREAST else 760, height=height(figure))
        for key, figure in shown.items()
    }


_ABREAST = ("ttft", "tpot", "e2e")


def _of_few(served: int, requests: int) -> str:
    """How many requests a figure rests on, where those are few of them."""
    return f", of {count(served)} of {count(requests)}" if served < MINORITY * requests else ""


def _key_figures(result: Result) -> list[tuple[str, str, str]]:
    """Name, value and small print of the handful of figures at the top."""
    totals, latency = result.totals, result.latency
    found = [
        ("Requests served", count(totals.finished), f"of {count(totals.requests)}"),
        ("Output tokens", decimal(result.throughput.output_tokens_per_s), "per second"),
    ]
    found += [
        (
            f"{name} p99",
            seconds(item.p99),
            f"median {seconds(item.p50)}{_of_few(item.count, totals.requests)}",
        )
        for name, item in (("TTFT", latency.ttft_s), ("TPOT", latency.tpot_s))
        if item is not None
    ]
    if (cost := result.cost) is not None:
        answered = money(cost.per_million_output_tokens, cost.currency)
        found.append(("Cost", answered, "per million output tokens"))
    reused = reused_ratio(result)
    note = "of prompt tokens" if reused is None else f"on the GPU, {percent(reused)} with the tiers"
    if not result.hits_known:
        note = "not known: the trace does not say"
    found.append(("Prefix hit ratio", percent(result.hit_ratio), note))
    found.append(("Peak pool use", percent(result.peak_use), f"of {count(result.pool.usable_blocks)} blocks"))
    return found
