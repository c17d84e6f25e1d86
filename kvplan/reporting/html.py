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
from typing import Any

from kvplan.reporting import tables
from kvplan.reporting.csv import result_csv
from kvplan.reporting.figures import Figure, figures
from kvplan.reporting.palette import DARK, LIGHT, declarations
from kvplan.reporting.result import Result, result_json
from kvplan.reporting.series import MAX_POINTS, downsampled
from kvplan.reporting.svg import render as drawing
from kvplan.reporting.verdict import cautions, subject, unknowns, verdict
from kvplan.reporting.wording import count, decimal, percent, plain, seconds

MAX_EMBEDDED_BYTES = 4_000_000
"""A result longer than this is not embedded for download: the page would be slow to open and to send."""

MAX_WARNINGS = 100


def render_html(result: Result) -> str:
    """The page.

    Raises:
        EnvironmentLacks: the installed plotly came without plotly.js.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("kvplan.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def source(name: str) -> str:
        loader = environment.loader
        assert loader is not None
        return loader.get_source(environment, name)[0]

    from kvplan.reporting.charts import height, library, plotly_json

    shown = figures(result)
    plotly = library()
    theme, page = source("theme.js"), source("page.js")
    payload = {"charts": {key: plotly_json(figure) for key, figure in shown.items()}, "csv": result_csv(result)}
    text = result_json(result, indent=None)
    embedded = len(text.encode()) <= MAX_EMBEDDED_BYTES
    context: dict[str, Any] = {
        "r": result,
        "title": f"{subject(result)} · kvplan",
        "verdict": verdict(result),
        "key_figures": _key_figures(result),
        "cautions": cautions(result),
        "unknowns": unknowns(result),
        "tables": {name: getattr(tables, f"{name}_table")(result) for name in _TABLES},
        "charts": {key: _chart(figure, height(figure), Markup) for key, figure in shown.items()},
        "absent": absent(result),
        "warnings": [plain(text) for text in result.warnings[:MAX_WARNINGS]],
        "warnings_left": max(0, len(result.warnings) - MAX_WARNINGS),
        "notes": [plain(text) for text in result.trace.notes[:MAX_WARNINGS]],
        "statement": plain(result.accuracy.statement),
        "accuracy_source": plain(result.accuracy.source),
        "command": plain(result.provenance.command, 4000),
        "downsampled": downsampled(result),
        "max_points": MAX_POINTS,
        "csp": _policy(theme.encode(), page.encode(), plotly),
        "palette": Markup(
            f":root{{{declarations(LIGHT)}}}"
            f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{declarations(DARK)}}}}}"
            f"@media screen{{:root[data-theme=dark]{{{declarations(DARK)}}}}}"
        ),
        "style": Markup(source("page.css")),
        "theme_script": Markup(theme),
        "page_script": Markup(page),
        "payload": Markup(script_safe(json.dumps(payload, sort_keys=True, separators=(",", ":"), allow_nan=False))),
        "result_json": Markup(script_safe(text)) if embedded else None,
        "result_bytes": count(len(text.encode())),
        "plotly": Markup(base64.b64encode(gzip.compress(plotly, 9, mtime=0)).decode()),
    }
    return environment.get_template("report.html.j2").render(context)


_TABLES = (
    "inputs", "scenario", "memory", "capacity", "series", "latency", "totals", "accuracy", "trace", "files", "versions",
)  # fmt: skip


def script_safe(text: str) -> str:
    """JSON text that cannot end or open an HTML element; it parses to the same value."""
    return (
        text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        .replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )  # fmt: skip


def absent(result: Result) -> dict[str, str]:
    """Why a section has no chart, by chart; only for charts that are missing."""
    reasons = {}
    if result.memory is None:
        lacking = "a model and a GPU" if result.model is None else "a GPU" if result.gpu is None else "the bill"
        reasons["memory"] = f"No memory bill: the scenario was run without {lacking}, on a pool of given size."
    if not result.capacity:
        reasons["capacity"] = "No capacity curve: it needs a model and a GPU, and the scenario does not name both."
    if len(result.series.t_s) < 2:
        reasons["series"] = "No course over time: the run has fewer than two samples."
    elif not result.totals.queried_tokens:
        reasons["hit_ratio"] = "No hit ratio: no prompt was looked up in a prefix cache."
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        if not getattr(result.distributions, name):
            short = name.removesuffix("_s").upper()
            reasons[name.removesuffix("_s")] = f"No {short} distribution: no request has one."
    return reasons


def _policy(*scripts: bytes) -> str:
    digests = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _chart(figure: Figure, height: int, markup: Any) -> dict[str, Any]:
    narrow = figure.key in ("ttft", "tpot", "e2e")
    picture = drawing(figure, width=380 if narrow else 760, height=height)
    return {"title": figure.title, "summary": figure.summary, "drawing": markup(picture), "height": height}


def _key_figures(result: Result) -> list[tuple[str, str, str]]:
    """Name, value and small print of the handful of figures at the top."""
    totals, latency = result.totals, result.latency
    found = [
        ("Requests served", count(totals.finished), f"of {count(totals.requests)}"),
        ("Output tokens", decimal(result.throughput.output_tokens_per_s), "per second"),
    ]
    found += [
        (f"{name} p99", seconds(item.p99), f"median {seconds(item.p50)}")
        for name, item in (("TTFT", latency.ttft_s), ("TPOT", latency.tpot_s))
        if item is not None
    ]
    found.append(("Prefix hit ratio", percent(result.hit_ratio), "of prompt tokens"))
    found.append(("Peak pool use", percent(result.peak_use), f"of {count(result.pool.usable_blocks)} blocks"))
    return found
