"""The page: one file, the same bytes, safe with hostile text, complete without scripts."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from kvplan.reporting import html
from kvplan.reporting.charts import library
from kvplan.reporting.html import render_html, script_safe, tie
from kvplan.reporting.loading import parse_result
from kvplan.reporting.result import Result
from kvplan.reporting.result_csv import result_csv

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Elements, texts of scripts, and whether tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        elif self._open and self._open[-1] != "style":
            self.text.append(data)

    def script(self, name: str) -> str:
        return next(text for attrs, text in self.scripts if attrs.get("id") == name)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).replace("\u00a0", " ").split())


@pytest.fixture(scope="module")
def page_of(result_document):
    made: dict[str, tuple[Result, str, Page]] = {}

    def make(variant: str = "full") -> tuple[Result, str, Page]:
        if variant not in made:
            result = parse_result(result_document(variant))
            text = render_html(result)
            made[variant] = result, text, Page(text)
        return made[variant]

    return make


def test_every_kind_of_result_gives_a_whole_page(any_document):
    result = parse_result(any_document)
    page = Page(render_html(result))
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    headings = [tag for tag, _ in page.tags if tag in ("h1", "h2")]
    assert headings.count("h1") == 1
    assert headings.count("h2") >= 10
    known = set(ids)
    assert all(
        attrs["aria-labelledby"].split()[0] in known for _, attrs in page.tags if attrs.get("aria-labelledby")
    )
    tables = [tag for tag, _ in page.tags if tag == "table"]
    assert len(tables) == len([tag for tag, _ in page.tags if tag == "caption"]) > 4
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")


def test_equal_results_give_equal_bytes(result_document, page_of):
    _, text, _ = page_of()
    assert render_html(parse_result(result_document())) == text


def test_nothing_points_outside_the_file(page_of):
    _, text, page = page_of("hostile")
    for _, attrs in page.tags:
        for name in ("src", "href", "action", "data"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:")), value
    assert "@import" not in text
    assert "url(" not in text


def test_the_policy_allows_exactly_our_scripts(page_of):
    _, _, page = page_of()
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline'" not in policy.split("style-src")[0]
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    scripts = [text.encode() for attrs, text in page.scripts if "type" not in attrs]
    scripts.append(gzip.decompress(base64.b64decode(page.script("plotly"))))
    assert scripts[-1] == library()
    assert allowed == {base64.b64encode(hashlib.sha256(script).digest()).decode() for script in scripts}


def test_hostile_text_is_shown_and_never_runs(page_of):
    _, text, page = page_of("hostile")
    assert "onerror=alert" in page.words
    assert "{{ 7 * 7 }}" in page.words
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert len(page.scripts) == 5
    assert "\x1b" not in text
    assert "\u202e" not in text.replace(page.script("result"), "")


def test_the_result_is_embedded_whole(page_of, result_document):
    for variant in ("full", "hostile"):
        _, _, page = page_of(variant)
        assert json.loads(page.script("result")) == result_document(variant)


def test_the_payload_holds_every_chart_and_the_csv(page_of):
    result, _, page = page_of()
    payload = json.loads(page.script("payload"))
    plots = {attrs["data-chart"] for _, attrs in page.tags if "data-chart" in attrs}
    assert set(payload["charts"]) == plots
    assert len(plots) == 8
    assert payload["csv"] == result_csv(result)


def test_a_result_too_long_is_left_out_and_that_is_said(monkeypatch, result_document):
    monkeypatch.setattr(html, "MAX_EMBEDDED_BYTES", 1000)
    page = Page(render_html(parse_result(result_document())))
    assert not [attrs for attrs, _ in page.scripts if attrs.get("id") == "result"]
    assert not [attrs for _, attrs in page.tags if attrs.get("id") == "save-json"]
    assert "too long to be part of this page" in page.words


def test_what_is_cut_is_counted(page_of):
    result, text, page = page_of("crowded")
    assert "at most 2000 of 7000 samples" in page.words
    assert "400 more are in result.json" in page.words
    payload = json.loads(page.script("payload"))
    assert max(len(trace["x"]) for chart in payload["charts"].values() for trace in chart["data"]) <= 2000
    assert len(text.encode()) < 3_000_000
    assert len(result.series.t_s) == 7000


@pytest.mark.parametrize(
    ("variant", "sentence"),
    [
        ("no_model", "No memory bill: the scenario was run without a model and a GPU"),
        ("empty", "No course over time"),
        ("one_request", "No TPOT distribution"),
        ("incomplete", "The run is incomplete"),
        ("no_model", "How far the predicted latencies may be off is not known"),
    ],
)
def test_absences_are_explained_on_the_page(page_of, variant: str, sentence: str):
    assert sentence in page_of(variant)[2].words


def test_the_answer_comes_first(page_of):
    words = page_of()[2].words
    order = ["within its latency limits.", "Read with care", "Inputs and assumptions", "Memory bill", "Capacity",
             "Over time", "Latency", "Totals", "Accuracy", "Trace", "Warnings", "Provenance"]  # fmt: skip
    places = [words.index(f" {title}") for title in order]
    assert places[:5] == sorted(places[:5])
    headings = re.findall(r"<h2 id=\"[a-z]+\">([^<]+)</h2>", page_of()[1])
    assert headings == order[1:]


def test_units_stay_with_their_numbers():
    assert tie("p99 891 ms of 2 s, 16 GiB") == "p99 891\u00a0ms of 2\u00a0s, 16\u00a0GiB"
    assert tie("at 2 speeds") == "at 2 speeds"


def test_script_safe_text_is_the_same_json():
    value = {"a": "</script><!-- & \u2028\u2029 é"}
    text = script_safe(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)


def test_templates_are_package_data():
    names = {entry.name for entry in files("kvplan.reporting").joinpath("templates").iterdir()}
    assert {"report.html.j2", "page.css", "page.js", "theme.js"} <= names


def test_commands_break_between_words_only(result_document):
    """A browser breaks lines behind hyphens: ``-`` at the end of one line and ``-price`` on the next."""
    page = render_html(parse_result(result_document()))
    commands = re.findall(r'<pre class="command"><code[^>]*>(.*?)</code>', page)
    assert commands
    for command in commands:
        assert re.fullmatch(r"<span>[^< ]*</span>(?: <span>[^< ]*</span>)*", command)
