"""A committed result renders to its committed report, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvplan.reporting.loading import load_result
from kvplan.reporting.markdown import markdown_pictures, render_markdown

REPORTS = Path(__file__).resolve().parents[2] / "reports"

STUDIES = sorted(
    path.parent.name
    for path in REPORTS.glob("*/result.json")
    if path.parent.name != "local" and json.loads(path.read_text()).get("schema") == "kvplan.result/1"
)


def test_there_is_a_study() -> None:
    assert STUDIES


@pytest.mark.parametrize("study", STUDIES)
def test_the_report_is_the_results(study: str) -> None:
    folder = REPORTS / study
    result = load_result(str(folder / "result.json"))
    pictures = markdown_pictures(result, "report")
    assert (folder / "report.md").read_text() == render_markdown(result, pictures="report")
    for name, drawing in pictures.items():
        assert (folder / name).read_text() == drawing
    assert {path.name for path in folder.glob("*.svg")} == set(pictures)


@pytest.mark.parametrize("study", STUDIES)
def test_the_scenario_is_the_results(study: str) -> None:
    from kvplan.scenario.load import load_scenario
    from kvplan.scenario.schema import Scenario

    recorded = json.loads((REPORTS / study / "result.json").read_text())["scenario"]
    # What a scenario could not say yet when the study was made has its default.
    assert load_scenario(str(REPORTS / study / "scenario.yaml")) == Scenario.model_validate(recorded)
