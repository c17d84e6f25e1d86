"""The page in a real browser, offline: no errors, no requests, charts drawn, themes, paper, downloads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvplan.reporting.html import render_html
from kvplan.reporting.loading import parse_result
from tests.reporting.conftest import build

pytestmark = [pytest.mark.browser, pytest.mark.slow]

READY = "document.documentElement.dataset.charts === 'ready'"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next((found for name in ("chromium", "chromium-browser", "google-chrome")
                    if (found := shutil.which(name))), None)  # fmt: skip
    if program is None:
        pytest.skip("no chromium on PATH")
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


class Visit:
    """One page, opened offline, with everything that went wrong or went out."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(offline=True, accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(f"{message.type}: {message.text}"))
        self.page.goto(path.as_uri())
        self.until(READY)

    def until(self, expression: str, seconds: int = 60) -> None:
        """Ask again and again from here: what the page itself asks later is forbidden by its own policy."""
        for _ in range(20 * seconds):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never true: {expression}")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def _write(path: Path, variant: str) -> dict[str, Any]:
    document: dict[str, Any] = build(variant)
    path.write_text(render_html(parse_result(document)), encoding="utf-8")
    return document


def test_page_is_complete_offline(browser, tmp_path):
    path = tmp_path / "report.html"
    document = _write(path, "full")
    with Visit(browser, path, viewport={"width": 1280, "height": 900}) as visit:
        page = visit.page
        assert page.locator(".is-live .live .main-svg").count() >= 8
        assert page.locator(".plot.is-live").count() == 8
        assert page.locator(".drawing:visible").count() == 0
        tools = page.locator(".modebar-btn").evaluate_all("all => all.map(item => item.dataset.title)")
        assert set(tools) == {"Download plot", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        # What is hidden from screen readers is no stop of the keyboard, also after a chart was drawn anew.
        page.set_viewport_size({"width": 1000, "height": 900})
        page.wait_for_timeout(300)
        assert page.locator(".live button").evaluate_all("all => all.every(item => item.tabIndex < 0)")
        with page.expect_download() as download:
            page.click("#save-json")
        assert json.loads(Path(download.value.path()).read_text(encoding="utf-8")) == document
        with page.expect_download() as download:
            page.click("#save-csv")
        assert Path(download.value.path()).read_text(encoding="utf-8").startswith("group,name,statistic")
        assert visit.requests[0] == path.as_uri()
        assert all(url.startswith("blob:") for url in visit.requests[1:])  # the downloads, from memory
        assert visit.errors == []


def test_themes_follow_the_system_and_the_button(browser, tmp_path):
    path = tmp_path / "report.html"
    _write(path, "full")
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    line = "document.querySelector('#chart-capacity .live .js-line').style.stroke"
    with Visit(browser, path, color_scheme="dark") as visit:
        page = visit.page
        dark = page.evaluate(paper), page.evaluate(line)
        assert page.inner_text("#theme") == "Light"
        page.click("#theme")
        visit.until(f"{line} !== {json.dumps(dark[1])}")
        light = page.evaluate(paper), page.evaluate(line)
        assert page.inner_text("#theme") == "Dark"
        assert visit.errors == []
    assert dark[0] == "rgb(20, 23, 26)"
    assert light[0] == "rgb(252, 251, 248)"


def test_paper_and_telephone(browser, tmp_path):
    path = tmp_path / "report.html"
    _write(path, "crowded")
    with Visit(browser, path, viewport={"width": 390, "height": 800}, color_scheme="dark") as visit:
        page = visit.page
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        pdf = page.pdf(format="A4")
        assert pdf.startswith(b"%PDF")
        assert len(pdf) > 50_000
        page.emulate_media(media="print")
        assert page.locator(".drawing:visible").count() == 8
        assert page.locator(".live:visible").count() == 0
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(23, 25, 28)"
        assert visit.errors == []


def test_figures_of_strategies_are_tables_that_scroll_by_themselves(browser, tmp_path):
    path = tmp_path / "report.html"
    document = _write(path, "strategies")
    with Visit(browser, path, viewport={"width": 390, "height": 800}) as visit:
        page = visit.page
        tables = page.locator("section[aria-labelledby=strategies] table")
        assert [caption.strip() for caption in tables.locator("caption").all_inner_texts()] == [
            "Host tier",
            "Pinned prefixes",
        ]
        rows = sum(len(metrics) for metrics in document["strategies"].values())
        assert tables.locator("tbody th[scope=row]").count() == rows
        assert tables.locator("td:has-text('64.00 GiB')").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert visit.errors == []


def test_tables_that_go_on_at_a_side_show_it(browser, pages):
    """By a shadow that stays, below a cover that scrolls with the table; on paper nothing scrolls."""
    with Visit(browser, pages[0], viewport={"width": 390, "height": 800}) as visit:
        page = visit.page
        wide = """Array.from(document.querySelectorAll(".scroll")).filter(box => box.scrollWidth > box.clientWidth)
            .map(box => getComputedStyle(box).backgroundAttachment)"""
        assert "local, local, scroll, scroll" in page.evaluate(wide)
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.querySelector('.scroll')).backgroundImage") == "none"


def test_hostile_results_stay_text(browser, tmp_path):
    path = tmp_path / "report.html"
    document = _write(path, "hostile")
    with Visit(browser, path) as visit:
        assert visit.page.inner_text("h1").startswith(document["model"]["name"])
        assert visit.page.locator("img").count() == 0
        assert visit.requests == [path.as_uri()]
        assert visit.errors == []  # an alert, a blocked script or a failed image would be one


def test_a_plan_is_a_page_like_a_result(browser, tmp_path):
    from kvplan.cli.app import run

    path = tmp_path / "plan.html"
    words = [
        "--model",
        "llama-3.1-8b",
        "--gpu",
        "h100-sxm,l40s",
        "--tp",
        "1,2",
        "--price",
        "h100-sxm=2,l40s=1",
    ]
    load = ["--synthesize", "fixed", "--rate", "100", "-n", "200", "--longest", "200"]
    slo = ["--set", "workload.output_tokens=20", "--set", "slo.ttft_p99_s=0.5"]
    assert run(["plan", *words, *load, *slo, "-j", "1", "-q", "--html", str(path)]) == 0
    for width in (390, 1280):
        with Visit(browser, path, viewport={"width": width, "height": 900}) as visit:
            page = visit.page
            assert page.locator(".plot.is-live").count() == 2
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.inner_text("h1").startswith("llama-3.1-8b meets every objective on")
            assert "vllm serve" in page.inner_text(".advice")
            copies = page.locator(".shell:visible .copy:visible")
            assert copies.count() == page.locator(".shell").count() == 3
            copies.first.click()
            visit.until("document.querySelector('.copy').textContent !== 'Copy'")
            with page.expect_download() as download:
                page.click("#save-json")
            assert download.value.suggested_filename == "plan.json"
            assert visit.errors == []


def test_a_sweep_is_a_page_like_a_result(browser, tmp_path):
    from kvplan.cli.app import run

    scenario, path = tmp_path / "s.yaml", tmp_path / "sweep.html"
    scenario.write_text(
        "cache: {blocks: 2000}\nlatency: {model: linear, a: 5.0e-3, b: 2.0e-5, c: 1.0e-8}\n"
        "workload: {synthesize: chat, requests: 30, rate: 20}\nslo: {ttft_p99_s: 0.5}\n"
    )
    words = ["--vary", "cache.eviction=lru,lfu", "--vary", "workload.rate=5,20,80"]
    assert run(["sweep", str(scenario), *words, "-j", "1", "-q", "--html", str(path)]) == 0
    for width in (390, 1280):
        with Visit(browser, path, viewport={"width": width, "height": 900}) as visit:
            page = visit.page
            assert page.locator(".plot.is-live").count() == 4
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.locator("h1").is_visible()
            assert page.locator(".figures").bounding_box()["y"] < 900  # the answer is on the first screen
            with page.expect_download() as download:
                page.click("#save-json")
            assert download.value.suggested_filename == "sweep.json"
            assert visit.errors == []
            assert all(url.startswith(("blob:", "file:")) for url in visit.requests)


LEGENDS = """() => [...document.querySelectorAll(".is-live")].map((plot) => {
    const box = (name) => plot.querySelector(name)?.getBoundingClientRect();
    const [legend, title] = [box(".legend .scrollbox"), box(".annotation-text")];
    const scrolls = +(plot.querySelector(".legend .scrollbar")?.getAttribute("height") ?? 0) > 0;
    const covers = legend && title && legend.left < title.right && legend.top < title.bottom;
    return [plot.dataset.chart, scrolls, Boolean(covers)];
})"""
"""Of each chart, whether its legend hides a part of itself, and whether it lies over the axis' title."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A sweep and a report, whose charts have long legends."""
    from kvplan.cli.app import run

    folder = tmp_path_factory.mktemp("pages")
    scenario, sweep, report = folder / "s.yaml", folder / "sweep.html", folder / "report.html"
    scenario.write_text(
        "cache: {blocks: 2000}\nlatency: {model: linear, a: 5.0e-3, b: 2.0e-5, c: 1.0e-8}\n"
        "workload: {synthesize: chat, requests: 30, rate: 20}\n"
    )
    kinds = "routing={policy: round-robin},{policy: least-loaded},{policy: session-affinity}"
    words = ["--vary", kinds, "--vary", "workload.rate=5,20", "--set", "parallel.replicas=2"]
    assert run(["sweep", str(scenario), *words, "-j", "1", "-q", "--html", str(sweep)]) == 0
    _write(report, "full")
    return [sweep, report]


@pytest.mark.parametrize("width", [330, 800, 1280])
def test_legends_are_whole_and_beside_the_title_of_the_axis(browser, pages, width):
    for path in pages:
        with Visit(browser, path, viewport={"width": width, "height": 900}) as visit:
            found = visit.page.evaluate(LEGENDS)
            assert [chart for chart, scrolls, covers in found if scrolls or covers] == []
            assert visit.errors == []
