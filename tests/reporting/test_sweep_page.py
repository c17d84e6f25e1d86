"""The page of a sweep: what it found comes first, it is whole without scripts, and safe with hostile text."""

from __future__ import annotations

import copy
import json
import re

import pytest

from kvplan.errors import DataError
from kvplan.reporting.charts import plotly_json
from kvplan.reporting.loading import parse_report, parse_result
from kvplan.reporting.schema.sweep import Sweep
from kvplan.reporting.svg import CHARACTER, render
from kvplan.reporting.sweep import sweep_csv
from kvplan.reporting.sweep_figures import sweep_figures
from kvplan.reporting.sweep_page import key_figures, render_sweep
from kvplan.reporting.sweep_verdict import sweep_verdict

FIGURES = {
    "finished": 300, "rejected": 0, "timed_out": 0, "unfinished": 0, "hit_ratio": 0.5, "ttft_p50_s": 0.05, "ttft_p99_s": 0.2,
    "tpot_p50_s": 0.01, "tpot_p99_s": 0.012, "output_tokens_per_s": 800.0, "preemptions": 0,
    "evicted_blocks": 9, "moved_bytes": 0, "peak_used_blocks": 100, "peak_used_bytes": 1 << 30,
    "makespan_s": 60.0, "slo_met": None,
}  # fmt: skip


def sweep_document(axes: dict[str, list], **of_point) -> dict:
    """Every combination; ``of_point`` gives a figure a list of values, a point each."""
    points = [{}]
    for key, values in axes.items():
        points = [{**point, key: value} for point in points for value in values]
    return {
        "schema": "kvplan.sweep/1",
        "complete": True,
        "axes": [{"key": key, "values": values} for key, values in axes.items()],
        "scenario": {"model": "llama-3.1-8b", "gpu": "h100-sxm", "slo": {"ttft_p99_s": 0.5}, "seed": 0},
        "points": [
            {
                "point": index + 1,
                "values": values,
                "status": "done",
                "figures": {**FIGURES, **{name: found[index] for name, found in of_point.items()}},
                "error": None,
            }
            for index, values in enumerate(points)
        ],
        "provenance": {
            "command": "kvplan sweep s.yaml",
            "seed": 0,
            "inputs": [],
            "versions": {"kvplan": "0.1.0"},
        },
    }


def parsed(axes: dict[str, list], **of_point) -> Sweep:
    found = parse_report(sweep_document(axes, **of_point))
    assert isinstance(found, Sweep)
    return found


RATES = {"workload.rate": [4, 8, 16]}


@pytest.mark.parametrize(
    ("met", "headline", "tone"),
    [
        ([True, True, True], "All 3 points of llama-3.1-8b on h100-sxm meet every objective.", "met"),
        (
            [True, False, True],
            "2 of the 3 points of llama-3.1-8b on h100-sxm meet every objective.",
            "partial",
        ),
        ([False] * 3, "None of the 3 points of llama-3.1-8b on h100-sxm meet every objective.", "missed"),
        ([None] * 3, "llama-3.1-8b on h100-sxm at 3 points: TTFT p99 from 100 ms to 3.00 s.", "neutral"),
    ],
)
def test_the_headline_answers(met: list, headline: str, tone: str):
    found = sweep_verdict(parsed(RATES, slo_met=met, ttft_p99_s=[0.1, 0.3, 3.0]))
    assert (found.headline, found.tone) == (headline, tone)
    assert "Varied: workload.rate (4, 8, 16)." in found.detail
    assert ("The objective is TTFT p99 within 500 ms." in found.detail) == (met[0] is not None)


def test_numbers_stand_under_one_another_and_what_is_the_same_has_no_best_point():
    sweep = parsed({"cache.eviction": ["lru", "lfu"], **RATES}, ttft_p99_s=[0.1 * n for n in range(1, 7)])
    page = render_sweep(sweep)
    assert '<td>lru</td><td class="n">4</td>' in page
    tiles = {name: note for name, _, note in key_figures(sweep)}
    assert tiles["Highest hit ratio"] == "at every point"
    assert tiles["Lowest TTFT p99"] == "point 1: lru, 4"
    document = sweep.document()
    document["points"][5] |= {"status": "not run", "figures": None}
    tiles = {name: note for name, _, note in key_figures(parse_report(document))}
    assert tiles["Highest hit ratio"] == "at all 5 points that have it"
    met = parsed({"cache.eviction": ["lru", "lfu"]}, slo_met=[True, True])
    assert {note for name, _, note in key_figures(met)} == {"at every point"}


def test_a_cost_has_its_currency():
    document = sweep_document({"seed": [1, 2]}, cost_per_million_output_tokens=[0.25, 0.5])
    document["scenario"]["price"] = {"gpu_hour": 2.5, "currency": "<EUR>"}
    tiles = {name: value for name, value, _ in key_figures(parse_report(document))}
    assert tiles["Lowest cost of a million output tokens"] == "0.25 <EUR>"
    assert "<EUR>" not in render_sweep(parse_report(document)).split("<script")[0]


@pytest.mark.parametrize(("tiles", "columns"), [(1, 1), (6, 6), (7, 4), (8, 4), (9, 5), (13, 5)])
def test_tiles_come_in_rows_of_the_same_length(tiles: int, columns: int):
    from jinja2 import Environment, PackageLoader

    from kvplan.reporting.html import tie

    environment = Environment(loader=PackageLoader("kvplan.reporting", "templates"), autoescape=True)
    environment.filters["tie"] = tie
    made = environment.from_string('{% from "parts.html.j2" import tiles with context %}{{ tiles(figures) }}')
    page = made.render(figures=[("a", "1", "b")] * tiles)
    assert re.findall(r"--columns:(\d+)", page) == [str(columns)]


def test_one_point_is_worded_as_one():
    for met, words in ((True, "meets"), (False, "misses")):
        headline = sweep_verdict(parsed({"seed": [1]}, slo_met=[met])).headline
        assert headline.startswith("The one point of llama-3.1-8b on h100-sxm")
        assert words in headline


def test_the_best_are_sought_among_points_that_meet_the_objectives():
    rate = [800.0, 1400.0, 2100.0]
    judged = parsed(RATES, slo_met=[True, True, False], output_tokens_per_s=rate)
    free = parsed(RATES, output_tokens_per_s=rate)
    lossy = parsed(RATES, output_tokens_per_s=rate, rejected=[0, 0, 5])
    found = [
        {name: (value, note) for name, value, note in key_figures(sweep)} for sweep in (judged, free, lossy)
    ]
    best = [each["Most output tokens a second"] for each in found]
    assert best == [("1,400", "point 2: 8"), ("2,100", "point 3: 16"), ("1,400", "point 2: 8")]


def test_charts_run_along_the_last_number_and_have_a_line_for_each_of_the_rest():
    sweep = parsed({"cache.eviction": ["lru", "lfu"], **RATES}, ttft_p99_s=[0.1, 0.2, 3.0] * 2)
    charts = {figure.key: figure for figure in sweep_figures(sweep)}
    assert list(charts) == ["ttft_p99", "tpot_p99", "output_tokens_per", "hit_ratio"]
    assert [(line.name, line.x) for line in charts["ttft_p99"].lines] == [
        ("lru", [4, 8, 16]),
        ("lfu", [4, 8, 16]),
    ]
    assert charts["ttft_p99"].summary == "From 100 ms at point 1 (lru, 4) to 3.00 s at point 3 (lru, 16)."
    (only, *_) = sweep_figures(parsed(RATES, ttft_p99_s=[0.1, 0.2, 3.0]))
    assert only.summary == "From 100 ms at workload.rate 4 to 3.00 s at workload.rate 16."
    assert [rule.name for rule in charts["ttft_p99"].rules] == ["limit 500 ms"]
    layout = plotly_json(charts["ttft_p99"])["layout"]
    label = next(note for note in layout["annotations"] if note["text"] == "limit 500 ms")
    assert label["y"] == pytest.approx(-0.30103)  # annotations of a logarithmic axis stand at logarithms


def test_points_without_an_order_are_not_joined():
    for axes in ({"cache.eviction": ["lru", "lfu", "fifo"]}, {"seed": list(range(9)), **RATES}):
        sweep = parsed(axes)
        chart = sweep_figures(sweep)[0]
        (line,) = chart.lines
        assert (line.joined, len(line.x)) == (False, len(sweep.points))
        assert plotly_json(chart)["data"][0]["mode"] == "markers"


def test_points_that_are_no_numbers_have_their_names_on_the_axis():
    (chart, *_) = sweep_figures(parsed({"cache.dtype": ["bf16", "fp8", "int4"]}, ttft_p99_s=[0.1, 0.2, 3.0]))
    assert (chart.x.title, chart.x.names) == ("cache.dtype", ("bf16", "fp8", "int4"))
    assert chart.summary == "From 100 ms at point 1 (bf16) to 3.00 s at point 3 (int4)."
    shown = plotly_json(chart)
    assert shown["layout"]["xaxis"]["ticktext"] == ["bf16", "fp8", "int4"]
    assert shown["data"][0]["text"] == ["bf16", "fp8", "int4"]
    drawn = re.findall(r">([^<>]+)</text>", render(chart))
    assert {"bf16", "fp8", "int4"} <= set(drawn)


def test_names_of_points_have_room_beside_one_another_or_are_numbers():
    two = parsed({"cache.eviction": ["lru", "lfu"], "routing": ["{policy: prefix-aware}", None]})
    chart = sweep_figures(two)[0]
    assert chart.x.title == "cache.eviction, routing"
    assert chart.x.names[1] == "lru, null"
    assert len(set(chart.x.names)) == 4
    assert sum(CHARACTER * len(name) for name in chart.x.names) < 720
    many = sweep_figures(parsed({"gpu": [f"some-gpu-{number}" for number in range(20)]}))[0]
    assert (many.x.title, many.x.names) == ("point of the table", ())


def test_a_varied_objective_is_no_limit_of_all():
    sweep = parsed({"slo.ttft_p99_s": [0.1, 0.5], **RATES})
    assert all(not figure.rules for figure in sweep_figures(sweep))


def test_the_page_is_whole_and_the_same_every_time():
    sweep = parsed(RATES, slo_met=[True, True, False])
    page = render_sweep(sweep)
    assert page == render_sweep(sweep)
    assert page.index("2 of the 3 points") < page.index("One simulation a row") < page.index("<svg")
    assert page.count("<svg") == len(re.findall('data-chart="', page)) == 4
    assert "<title>llama-3.1-8b on h100-sxm: 3 points · kvplan</title>" in page
    assert not re.search(r"""(?:src|href)=["']?https?:""", page)
    embedded = re.search(r'<script type="application/json" id="result">(.*?)</script>', page, re.S)
    assert embedded is not None
    assert json.loads(embedded[1]) == sweep.document()
    assert sweep_csv(sweep.document()).splitlines()[0].startswith("point,workload.rate,status,finished")


def test_many_points_come_after_the_charts_and_are_lines_without_marks():
    sweep = parsed({"workload.rate": list(range(1, 301))}, ttft_p99_s=[0.01 * n for n in range(1, 301)])
    page = render_sweep(sweep)
    assert page.index("<svg") < page.index("One simulation a row")
    assert "100 more rows are in sweep.json." in page
    assert all(line.symbol is None for figure in sweep_figures(sweep) for line in figure.lines)


def test_failures_are_said_and_drawn_around():
    document = sweep_document(RATES)
    error = {"code": "data", "message": "no <b>such</b> file", "where": "x", "hint": None, "exit_code": 1}
    document["points"][1] |= {"status": "failed", "figures": None, "error": error}
    document["points"][2] |= {"status": "not run", "figures": None}
    document["complete"] = False
    sweep = parse_report(document)
    assert isinstance(sweep, Sweep)
    page = render_sweep(sweep)
    assert "no &lt;b&gt;such&lt;/b&gt; file" in page
    assert "2 points have no figures. The sweep was stopped early." in page
    for point in document["points"]:
        point.update(status="not run", figures=None, error=None)
    empty = parse_report(document)
    assert isinstance(empty, Sweep)
    assert "None of the 3 points could be simulated." in render_sweep(empty)


def test_points_without_figures_meet_nothing():
    document = sweep_document(RATES, slo_met=[True, True, True])
    document["points"][2] |= {"status": "not run", "figures": None}
    sweep = parse_report(document)
    assert isinstance(sweep, Sweep)
    found = sweep_verdict(sweep)
    assert found.headline == "2 of the 3 points of llama-3.1-8b on h100-sxm meet every objective."
    assert found.tone == "partial"
    assert "Every objective is met by points 1 and 2." in found.detail


HOSTILE = "</script><img src=x onerror=alert(1)>\u202e{{ 7 * 7 }}"


def test_hostile_text_stays_text():
    document = sweep_document({"cache.eviction": [HOSTILE, "lfu"], **RATES})
    document["scenario"] |= {"model": HOSTILE, "note": HOSTILE}
    document["provenance"]["command"] = HOSTILE
    sweep = parse_report(document)
    assert isinstance(sweep, Sweep)
    page = render_sweep(sweep)
    assert "<img" not in page
    assert "49" not in re.sub(r"<script.*?</script>|<style.*?</style>|<svg.*?</svg>", "", page, flags=re.S)
    assert page.count("</script>") == page.count("<script")


def nested(levels: int) -> object:
    return [nested(levels - 1)] if levels else 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["points"][0].update(status="failed"), "contradicts its figures"),
        (lambda d: d["points"][0].update(values={"x": 1}), r"points\[0\].values are not those of the axes"),
        (lambda d: d["points"][0]["figures"].pop("finished"), r"points\[0\].figures.finished: missing"),
        (lambda d: d["points"][0]["figures"].update(hit_ratio=2.0), "less than or equal to 1"),
        (lambda d: d["points"][0]["figures"].update(ttft_p99_s=-1.0), "greater than or equal to 0"),
        (lambda d: d.update(points=[]), "points"),
        (lambda d: d.update(novel=1), "unknown key"),
        (lambda d: d["axes"][0].update(values=[float("nan")]), "not plain JSON"),
        (lambda d: d["scenario"].update(a=nested(60)), "nested more than"),
        (lambda d: d.pop("axes"), "axes: missing"),
    ],
)
def test_a_damaged_sweep_is_refused_with_its_place(change, words: str):
    document = copy.deepcopy(sweep_document(RATES))
    change(document)
    with pytest.raises(DataError, match=words):
        parse_report(document)


def test_where_one_result_is_wanted_a_sweep_is_called_one():
    with pytest.raises(DataError) as caught:
        parse_result(sweep_document(RATES))
    assert "a sweep has one row a simulation" in (caught.value.hint or "")


def objective(name: str, limit: float, value: float) -> dict:
    band = [-0.2, 0.2]
    around = [value * (1 + off) for off in band]
    return {
        "name": name, "limit_s": limit, "value_s": value, "passed": value <= limit, "interval_s": around,
        "band": band,
    }  # fmt: skip


def searched(**answer) -> Sweep:
    """A search that found 8 of 4, 8 and 16 requests a second."""
    limits = [("ttft_p99_s", 0.5), ("tpot_p99_s", 0.05)]
    values = [(0.1, 0.02), (0.2, 0.045), (3.0, 0.06)]
    document = sweep_document(
        RATES,
        slo_met=[True, True, False],
        objectives=[
            [objective(n, lim, v) for (n, lim), v in zip(limits, row, strict=True)] for row in values
        ],
        arrivals_s=[400.0, 200.0, 100.0],
        e2e_p99_s=[4.0, 50.0, 90.0],
        growth=[1.0, 1.7, 2.5],
    )
    found = {
        "key": "workload.rate", "passed": 8, "missed": 16, "met_above": None, "requests": None,
        "settled": True, "binding": "tpot_p99_s", "range": None, "shorter": [],
    }  # fmt: skip
    sweep = parse_report({**document, "highest": {**found, **answer}})
    assert isinstance(sweep, Sweep)
    return sweep


RANGE = {"low": 6.0, "high": 10.0, "slower": 1.2, "faster": 0.8}


@pytest.mark.parametrize(
    ("answer", "tone", "words"),
    [
        ({}, "met", "every objective is met up to 8 requests a second (at 16 TPOT p99 is missed)."),
        ({"range": RANGE}, "neutral", "; 6 to 10 if steps take 20% more or less time than predicted."),
        ({"range": {**RANGE, "low": None}}, "neutral", "; nothing that was looked at to 10 if steps"),
        ({"range": {**RANGE, "low": 8.0, "high": 8.0}, "missed": None}, "met", ", also if steps take 20%"),
        ({"settled": False}, "partial", "too short a run to tell; at most 8 requests a second meet"),
        ({"passed": None}, "missed", "the objectives are not met"),
    ],
)
def test_the_tone_of_a_highest_load_is_how_sure_it_is(answer: dict, tone: str, words: str):
    found = sweep_verdict(searched(**answer))
    assert found.tone == tone
    assert words in found.headline


def test_a_search_says_where_it_looked_and_for_what():
    detail = sweep_verdict(searched()).detail
    assert detail[:2] == (
        "Searched: workload.rate in 3 runs, from 4 to 16.", "The objective is TTFT p99 within 500 ms.",
    )  # fmt: skip
    lengths = sweep_document({"workload.requests": [200, 1800], **RATES})
    document = {**lengths, "highest": {**searched().document()["highest"], "requests": 1800}}
    sweep = parse_report(document)
    said = "Searched: workload.rate in 6 runs, from 4 to 16; the runs have 200 to 1,800 requests."
    assert sweep_verdict(sweep).detail[0] == said


def test_the_chart_of_a_search_tells_trial_runs_from_those_of_its_answer():
    """A short run flatters every load: its points stand behind, and the words are of the long ones."""
    lengths = sweep_document(
        {"workload.requests": [200, 1800], **RATES}, ttft_p99_s=[0.1, 0.1, 0.1, 0.2, 0.3, 3.0]
    )
    document = {**lengths, "highest": {**searched().document()["highest"], "requests": 1800}}
    figure = sweep_figures(parse_report(document))[0]
    trial, answer = figure.lines
    assert (trial.name, trial.faint) == ("trial of 200 requests", True)
    assert (answer.name, answer.faint, answer.colour) == ("1,800 requests", False, 1)
    assert figure.summary.startswith("From 200 ms at workload.rate 4 to 3.00 s at workload.rate 16.")
    assert "stroke:var(--c8);stroke-width:1.0" in render(figure)
    thin, thick = (trace for trace in plotly_json(figure)["data"])
    assert (thin["line"]["color"], thin["line"]["width"]) == ("var(--c8)", 1.0)
    assert thick["line"]["color"] == "var(--c1)"


def failing(of_point: int, exit_code: int, **answer) -> Sweep:
    """The same search, of which a point has an error instead of figures."""
    document = searched(**answer).document()
    error = {"code": "x", "message": "no", "where": None, "hint": None, "exit_code": exit_code}
    document["points"][of_point] |= {"status": "failed", "figures": None, "error": error}
    return parse_report(document)


def test_what_was_tried_above_the_answer_and_failed_is_said():
    assert "(nothing higher was tried)" in sweep_verdict(searched(passed=16, missed=None)).headline
    found = sweep_verdict(failing(2, 1, missed=None)).headline
    assert "every objective is met up to 8 requests a second (16 could not be simulated)." in found
    assert "(at 16 it does not fit)" in sweep_verdict(failing(2, 3)).headline


def test_a_search_shows_the_figures_at_its_answer():
    sweep = searched(range=RANGE)
    tiles = {name: (value, note) for name, value, note in key_figures(sweep)}
    assert tiles["Highest rate"] == ("8", "6 to 10 within the clock's band")
    assert tiles["TTFT p99"] == ("200 ms", "limit 500 ms")
    assert tiles["TPOT p99"] == ("45.0 ms", "limit 50.0 ms, binds")
    page = render_sweep(sweep)
    assert "too close to call" in page
    assert "Lowest TTFT p99" not in page


def test_a_run_too_short_says_why_on_the_page():
    page = " ".join(render_sweep(searched(settled=False)).split())
    assert 'class="lead partial"' in page
    assert "requests arrive for 3.33 min and stay for up to 50.0 s" in page
    assert "1.7 times as many requests" in page
    assert "a longer trace would tell" in page


def test_columns_of_nothing_are_left_out():
    page = render_sweep(parsed(RATES))
    assert ">Moved<" not in page
    assert ">Evicted<" in page
    assert ">Moved<" in render_sweep(parsed(RATES, moved_bytes=[0, 0, 7]))


@pytest.mark.parametrize(
    "answer",
    [{"key": "cache.blocks"}, {"binding": "x" * 50}, {"range": {"low": 1}}, {"settled": "yes"}],
)
def test_an_answer_that_is_none_is_refused(answer: dict):
    with pytest.raises(DataError):
        searched(**answer)


def test_answers_without_their_figures_are_still_read():
    document = searched(settled=False, shorter=[{"requests": 3, "passed": None, "missed": None}]).document()
    for point in document["points"]:
        for name in ("arrivals_s", "e2e_p99_s", "growth", "objectives"):
            del point["figures"][name]
    assert "too short a run" in render_sweep(parse_report(document))


def named(middles: list[str]) -> Sweep:
    """Lines of tiers whose settings are long, and alike at both ends."""
    tiers = [
        f"{{host: {{memory: 200GB, connector: {text}, write: through, eviction_policy: lru}}}}"
        for text in middles
    ]
    count = 2 * len(tiers)
    return parsed({"tiers": tiers, "workload.rate": [4, 8]}, ttft_p99_s=[0.1 * (n + 1) for n in range(count)])


def test_lines_of_long_settings_have_names_of_their_own():
    names = [line.name for line in sweep_figures(named(["offloading", "lmcache"]))[0].lines]
    assert [name[:3] for name in names] == ["1: ", "2: "]
    assert all(len(name) <= 40 for name in names)
    ends = parsed({"cache.retention": ["x" * 50 + "a", "x" * 50 + "b"], "workload.rate": [4, 8]})
    assert [line.name[-1] for line in sweep_figures(ends)[0].lines] == ["a", "b"]
    assert [
        line.name for line in sweep_figures(parsed({"cache.dtype": ["bf16", "fp8"], **RATES}))[0].lines
    ] == [
        "bf16",
        "fp8",
    ]


def test_a_legend_without_room_beside_the_title_has_rows_of_its_own():
    short = render(sweep_figures(parsed({"cache.dtype": ["bf16", "fp8"], **RATES}))[0])
    long = render(sweep_figures(named(["a", "b", "c", "d", "e"]))[0])
    assert 'viewBox="0 0 720 300"' in short
    assert 'viewBox="0 0 720 354"' in long  # two names a row
    places = [(float(x), float(y)) for x, y, text in _texts(long) if text[1:3] == ": "]
    assert min(x for x, _ in places) > 0
    assert max(x for x, _ in places) + 40 * CHARACTER < 720
    (title,) = (float(y) for _, y, text in _texts(long) if text.startswith("TTFT p99,"))
    assert max(y for _, y in places) <= title - 12


def _texts(drawing: str) -> list[tuple[str, str, str]]:
    return re.findall(r'<text x="([-\d.]+)" y="([-\d.]+)"[^>]*>([^<]*)</text>', drawing)
