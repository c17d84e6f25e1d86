"""Figures: what is shown follows from the result, in bounds, for every kind of result."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.reporting.absence import absent
from kvplan.reporting.capacity import fits_at
from kvplan.reporting.charts import plotly_json
from kvplan.reporting.figures import Axis, capacity, figures
from kvplan.reporting.loading import parse_result
from kvplan.reporting.palette import DARK, LIGHT
from kvplan.reporting.scales import bounds, position, ticks
from kvplan.reporting.step_time import PARTS
from kvplan.reporting.svg import render
from kvplan.reporting.wording import seconds, significant

ALL = ["memory", "capacity", "occupancy", "requests", "hit_ratio", "ttft", "tpot", "e2e"]


@pytest.mark.parametrize(
    ("variant", "lacking"),
    [
        ("full", []),
        ("no_model", ["memory", "capacity"]),
        ("no_gpu", ["memory"]),
        ("empty", ["occupancy", "requests", "hit_ratio", "ttft", "tpot", "e2e"]),
        ("one_request", ["occupancy", "requests", "hit_ratio", "tpot"]),
    ],
)
def test_charts_exist_where_there_is_data_and_only_there(result_document, variant: str, lacking: list[str]):
    assert list(figures(parse_result(result_document(variant)))) == [key for key in ALL if key not in lacking]


def test_a_missing_chart_is_explained(any_document):
    result = parse_result(any_document)
    shown, reasons = set(figures(result)), absent(result)
    explained = set(reasons) | ({"occupancy", "requests", "hit_ratio"} if "series" in reasons else set())
    assert explained | shown == set(ALL) | ({"series"} & set(reasons))
    assert not set(reasons) & shown


def test_lines_are_bounded_and_inside_their_axes(any_document):
    for figure in figures(parse_result(any_document)).values():
        for line in figure.lines:
            assert len(line.x) == len(line.y) <= 2000
            for x, y in zip(line.x, line.y, strict=True):
                low, high = bounds(figure.x)
                assert low * (1 - 1e-3) - 1e-9 <= x <= high * (1 + 1e-3) + 1e-9
                low, high = bounds(figure.y)
                assert y is None or low * (1 - 1e-3) - 1e-9 <= y <= high * (1 + 1e-3) + 1e-9
        assert len(figure.lines) <= 8
        assert figure.summary.endswith(".")


def test_memory_segments_are_the_bill(result_document):
    result = parse_result(result_document())
    figure = figures(result)["memory"]
    assert result.memory is not None
    assert sum(part.value for part in figure.segments) * 2**30 == pytest.approx(
        result.memory.total_bytes, rel=1e-5
    )
    assert [part.name for part in figure.segments if part.quiet] == ["Unused"]


def test_capacity_marks_the_operating_point_and_the_chosen_format(result_document):
    figure = figures(parse_result(result_document()))["capacity"]
    assert [(mark.x, mark.y) for mark in figure.marks] == [(32_768, 13.388)]
    assert [line.name for line in figure.lines if line.heavy] == ["bf16"]
    assert len({(line.colour, line.symbol) for line in figure.lines}) == len(figure.lines)


def test_eight_formats_differ_in_colour_or_shape(result_document):
    figure = figures(parse_result(result_document("crowded")))["capacity"]
    assert len({(line.colour, line.symbol) for line in figure.lines}) == len(figure.lines) == 8


def test_distributions_carry_their_limits(result_document):
    shown = figures(parse_result(result_document("slo_missed")))
    (limit,) = shown["ttft"].rules
    assert (limit.value, limit.passed, limit.name) == (0.5, False, "p99 limit 500 ms")
    assert shown["tpot"].rules[0].passed is True
    assert shown["e2e"].rules == ()
    assert shown["ttft"].lines[0].y == [i / 100 for i in range(101)]


def test_a_distribution_names_the_values_of_its_percentiles(result_document):
    """Latencies that differ at every percentile."""
    document = result_document("full")
    values = [0.1 * 1.05**percent for percent in range(101)]
    document["distributions"]["ttft_s"] = values
    marks = figures(parse_result(document))["ttft"].marks
    assert [(mark.name, mark.y) for mark in marks] == [
        (f"p{percent} {seconds(values[percent])}", percent / 100) for percent in (50, 90, 99)
    ]
    assert [mark.x for mark in marks] == [significant(values[percent]) for percent in (50, 90, 99)]
    assert marks[2].name == "p99 12.5 s"


@pytest.mark.parametrize(
    ("end_s", "unit", "end"),
    [(299.0, "seconds", 299.0), (1200.0, "minutes", 20.0), (36_000.0, "hours", 10.0)],
)
def test_time_is_told_in_the_unit_that_suits_the_run(result_document, end_s: float, unit: str, end: float):
    document = result_document("full")
    series = document["series"]
    last = series["t_s"][-1]
    series["t_s"] = [t * end_s / last for t in series["t_s"]]
    axis = figures(parse_result(document))["requests"].x
    assert axis.title == f"time, {unit}"
    assert axis.high == pytest.approx(end)


def test_zero_latencies_do_not_break_a_logarithmic_axis(result_document):
    document = result_document()
    document["distributions"]["ttft_s"][:50] = [0.0] * 50
    line = figures(parse_result(document))["ttft"].lines[0]
    assert all(x > 0 for x in line.x)
    document["distributions"]["ttft_s"] = [0.0] * 101
    result = parse_result(document)
    assert "ttft" not in figures(result)


def test_plotly_figures_are_finite_json_with_theme_colours_only(any_document):
    for figure in figures(parse_result(any_document)).values():
        document = plotly_json(figure)
        text = json.dumps(document, allow_nan=False)
        assert len(document["data"]) == len(figure.lines) + len(figure.marks) + len(figure.segments)
        assert not re.search(r'"#[0-9a-f]{3,8}"', text)
        assert set(re.findall(r'"var\(--([\w-]+)\)"', text)) <= set(LIGHT) & set(DARK)
        assert "template" not in document["layout"]


def test_plotly_cannot_read_names_as_markup(result_document):
    text = json.dumps([plotly_json(f) for f in figures(parse_result(result_document("hostile"))).values()])
    assert "<b>bold" not in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text


def test_drawings_are_well_formed_and_described(any_document):
    for figure in figures(parse_result(any_document)).values():
        root = ElementTree.fromstring(render(figure, standalone=True))
        space = "{http://www.w3.org/2000/svg}"
        assert root.find(f"{space}title").text == figure.title
        assert root.find(f"{space}desc").text == figure.summary
        used = set(re.findall(r"var\(--([\w-]+)\)", render(figure)))
        assert used <= set(LIGHT) & set(DARK)
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        for text in root.iter(f"{space}text"):
            assert 0 <= float(text.attrib["x"]) <= width
            assert 0 <= float(text.attrib["y"]) <= height


def test_a_gap_lifts_the_pen(result_document):
    document = result_document()
    for name in ("queried_tokens", "hit_tokens"):
        column = document["series"][name]
        column[200:400] = [column[200]] * 200
    figure = figures(parse_result(document))["hit_ratio"]
    assert None in figure.lines[0].y
    path = re.findall(r'<path d="(M[^"]*)" style="fill:none;stroke:var\(--c1\)', render(figure))[-1]
    assert path.count("M") == 2


@given(
    st.floats(1e-6, 1e6), st.floats(1.0001, 1e6), st.booleans(),
    st.sampled_from(["seconds", "count", "tokens", "GiB", "percent", "time"]),
)  # fmt: skip
def test_ticks_lie_inside_their_axis_and_rise(low: float, factor: float, log: bool, unit):
    axis = Axis("a", unit, low, low * factor, log=log)
    start, end = bounds(axis)
    assert start < end
    marks = ticks(axis)
    values = [value for value, _ in marks]
    assert values == sorted(set(values))
    assert all(start * (1 - 1e-6) <= value <= end * (1 + 1e-6) for value in values)
    assert len(marks) <= 20


@given(st.floats(1, 100), st.floats(1, 100), st.booleans())
def test_positions_are_monotone_and_clipped(a: float, b: float, log: bool):
    axis = Axis("a", "seconds", 2, 50, log=log)
    assert 0 <= position(a, axis) <= 1
    if a <= b:
        assert position(a, axis) <= position(b, axis)
    assert position(bounds(axis)[0], axis) == 0
    assert position(bounds(axis)[1], axis) == 1


@pytest.mark.parametrize(
    ("held", "replicas", "words"), [(14.2, 2, "14.2 sequences"), (1.4, 2, None), (0.7, 1, None)]
)
def test_parts_of_a_sequence_are_none(result_document, held: float, replicas: int, words: str | None):
    document = result_document()
    document["memory"]["max_concurrency"] = held
    document["scenario"]["parallel"]["replicas"] = replicas
    shown = capacity(parse_result(document))
    assert shown is not None
    said = f"holds {words} of" if words else "has no room for one sequence of 32,768 tokens"
    assert said in shown.summary
    assert shown.marks[0].name.startswith("less than 1 x " if words is None else words.split()[0])


def test_a_pool_that_was_given_is_told_from_the_one_that_fits(result_document):
    document = result_document()
    fitting = document["memory"]["num_blocks"]
    for blocks, kind, said in (
        (3000, "vllm", True),
        (None, "vllm", False),
        (fitting, "vllm", False),
        (3000, "sglang", False),
    ):
        document["scenario"]["cache"]["blocks"] = blocks
        document["scenario"]["engine"]["kind"] = kind
        shown = capacity(parse_result(document))
        assert shown is not None
        assert (
            f"all {fitting:,} blocks that fit on a GPU; this run was given 3,000." in shown.summary
        ) == said


def test_the_label_of_a_point_near_the_axis_stands_above_it(result_document):
    from kvplan.reporting.charts import _mark_label
    from kvplan.reporting.svg import render

    def labels(held: float) -> tuple[str, float]:
        document = result_document()
        document["memory"]["max_concurrency"] = held
        document["memory"]["max_concurrency_context"] = 131_072
        figure = capacity(parse_result(document))
        assert figure is not None
        drawn = re.search(r'y="([\d.]+)"[^>]*>[^<]* x 131,072', render(figure))
        assert drawn is not None
        return _mark_label(figure.marks[0], figure)["yanchor"], float(drawn[1])

    bottom = 300 - 40
    assert labels(0.4)[0] == "bottom"
    assert labels(0.4)[1] < bottom
    assert labels(300.0)[0] == "top"


def test_inputs_list_what_was_chosen_and_no_defaults(result_document):
    from kvplan.reporting.tables import inputs_table

    document = result_document()
    document["scenario"] |= {
        "tiers": {"host": {"memory": 64 << 30, "dtype": None}, "disk": None},
        "routing": {"policy": "round-robin"},
        "sampling": {"n": 1},
    }
    document["scenario"]["engine"] |= {"watermark": 0.0, "preemption": "swap"}
    document["assumptions"] = [
        {"name": "latency.request_s", "value": 5e-6, "source": "assumed"},
        {"name": "tiers.block_bytes", "value": 2 << 20, "source": "computed"},
        {"name": "engine.max_num_seqs", "value": 1024, "source": "default"},
    ]
    rows = {name: value for name, value, _ in inputs_table(parse_result(document)).rows}
    assert rows["Tiers"] == "host.memory 64.00 GiB"
    assert rows["latency.request_s"] == "5.00 µs"
    assert rows["tiers.block_bytes"] == "2.00 MiB"
    assert rows["engine.max_num_seqs"] == "1,024"
    assert rows["Engine"].endswith("max_num_batched_tokens 8,192, preemption swap")
    assert rows["Parallelism"] == "tp 1"
    assert "Routing" not in rows
    assert "Sampling" not in rows


def offering(document: dict, mean: float, p99: float) -> dict:
    document["offered"] = {
        "requests": 1000, "prompt_tokens": 1, "output_tokens": 1, "tokens_mean": mean, "tokens_p99": p99,
        "requests_per_s": 2.0, "sustained_per_s": None, "saturated": False,
    }  # fmt: skip
    return document


def test_capacity_marks_the_lengths_of_the_workload(result_document):
    document = offering(result_document(), 2048.0, 16_384.0)
    shown = capacity(parse_result(document))
    assert shown is not None
    points = {p["context_tokens"]: p["max_concurrency"] for p in document["capacity"][0]["points"]}
    assert [(mark.x, mark.y) for mark in shown.marks] == [(n, significant(points[n])) for n in (2048, 16_384)]
    assert shown.marks[0].name.startswith("mean: ")
    assert "Of the workload's mean length, 2,048 tokens: 214 with bf16, 428 with fp8_e4m3" in shown.summary
    assert "At 131,072 tokens" not in shown.summary
    document["scenario"]["cache"]["blocks"] = document["pool"]["num_blocks"] = 13_710  # half of them
    halved = capacity(parse_result(document))
    assert halved is not None
    assert halved.marks[0].y == pytest.approx(points[2048] / 2, rel=1e-3)


def test_lengths_between_the_points_and_outside(result_document):
    curve = parse_result(result_document()).capacity[0]
    first, last = curve.points[0], curve.points[-1]
    assert fits_at(curve, 1024) == first.max_concurrency
    assert fits_at(curve, 512) == 2 * first.max_concurrency
    assert fits_at(curve, 2 * last.context_tokens) == last.max_concurrency / 2
    assert fits_at(curve, 3000) == pytest.approx(27_419 * 16 / 3000, rel=0.01)


def test_labels_of_falling_lines_stand_clear_of_them(result_document):
    from kvplan.reporting.scales import label_place

    shown = capacity(parse_result(offering(result_document(), 1100.0, 20_000.0)))
    assert shown is not None
    assert [label_place(mark, shown) for mark in shown.marks] == [(False, "above"), (True, "below")]


def test_parts_of_a_mean_request_are_none(result_document):
    document = offering(result_document(), 2048.0, 16_384.0)
    document["capacity"] = [
        {"dtype": "bf16", "points": [{"context_tokens": 1024, "max_concurrency": 1.6}]},
    ]
    shown = capacity(parse_result(document))
    assert shown is not None
    assert [mark.name for mark in shown.marks] == ["mean: less than 1", "p99"]
    assert "Of the workload's mean length, 2,048 tokens: less than 1 with bf16." in shown.summary
    assert "Its p99 is 16,384 tokens." in shown.summary


def test_every_part_of_a_step_has_a_colour_of_its_own() -> None:
    colours = [colour for _, _, colour in PARTS.values() if colour]
    assert len(set(colours)) == len(colours)
    for palette in (LIGHT, DARK):
        assert len({palette[f"c{colour}"] for colour in colours}) == len(colours)
