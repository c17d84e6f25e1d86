"""Two results as a page: whole, the same every time, charts of both over one another, hostile text as text."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from kvplan.reporting.comparison import compare
from kvplan.reporting.comparison_page import overlays, render_comparison
from kvplan.reporting.loading import parse_result
from kvplan.reporting.result import Result

pytest.importorskip("plotly")


def render(a: Result, b: Result, names: tuple[str, str] = ("a.json", "b.json")) -> str:
    return render_comparison(compare(a, b), (names[0], a), (names[1], b))


def slower(document: dict[str, Any], factor: float) -> Result:
    """The same run on a clock that is this much slower."""
    other = copy.deepcopy(document)
    other["series"]["t_s"] = [t * factor for t in other["series"]["t_s"]]
    other["totals"]["makespan_s"] *= factor
    return parse_result(other)


def test_the_page_is_whole_and_the_same_every_time(result_document: Any) -> None:
    a, b = parse_result(result_document("full")), parse_result(result_document("slo_missed"))
    text = render(a, b)
    assert text == render(a, b)
    assert text.count('class="chart"') == len(overlays(a, b)) >= 5
    visible = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", visible)
    for words in ("What was asked", "What came out", "a.json", "b.json", "TTFT p99", "Download CSV"):
        assert words in visible


def test_both_are_drawn_in_the_longer_unit_of_time(result_document: Any) -> None:
    document = result_document("full")
    a = parse_result(document)
    b = slower(document, 60.0)
    figure = overlays(a, b)["requests"]
    assert figure.x.title.endswith(", hours")
    ours, theirs = (line.x for line in figure.lines[:3:2])
    assert theirs == pytest.approx([60.0 * x for x in ours], rel=1e-4)
    assert figure.x.high == pytest.approx(theirs[-1], rel=1e-2)
    assert [line.name for line in figure.lines] == ["A, running", "A, waiting", "B, running", "B, waiting"]


def test_a_result_against_itself_says_so(any_document: dict[str, Any]) -> None:
    result = parse_result(any_document)
    text = render(result, result)
    assert "What is asked first is the same in both." in text
    assert "The same scenario." in text


def test_hostile_text_stays_text(result_document: Any) -> None:
    hostile, full = parse_result(result_document("hostile")), parse_result(result_document("full"))
    name = "<img src=x onerror=alert(1)>.json"
    for text in (render(hostile, full, (name, name)), render(full, hostile, (name, name))):
        assert "<img" not in text
        assert "<script>alert" not in text
        assert text.count("<script") == render(full, full).count("<script")


def test_a_unit_that_both_have_is_said_once(result_document: Any) -> None:
    document = result_document("full")
    other = copy.deepcopy(document)
    other["throughput"]["output_tokens_per_s"] *= 1.5
    text = render(parse_result(document), parse_result(other))
    tile = re.search(r"<dt>Output tokens a second</dt><dd>([^<]*)", text)
    assert tile is not None
    assert tile.group(1).count("tokens/s") == 1


def test_latencies_stand_side_by_side(result_document: Any) -> None:
    text = render(parse_result(result_document("full")), parse_result(result_document("slo_missed")))
    panels = text.split('<div class="panels">', 1)[1].split("</section>", 1)[0]
    assert re.findall(r'id="chart-(\w+)"', panels) == ["ttft", "tpot", "e2e"]
