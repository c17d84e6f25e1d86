"""Towers with all that stands around them, as transformers 5.23 builds them from the same fields.

Each case is a configuration with few fields, as files are that leave out what equals their class's, and how many
parameters the class makes of it beside the language model. Every class is there as it is by default, where
that can be built, and with two other sets of widths, layers, heads, images and taps.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.sizing.weights import parameter_count
from kvplan.specs.huggingface import import_config

RECORDED = Path(__file__).parent / "recorded" / "transformers-5.23-towers.json.gz"
with gzip.open(RECORDED, "rt", encoding="utf-8") as _recorded:
    CASES: list[dict[str, Any]] = json.load(_recorded)


def counted(config: dict[str, Any], tower: str) -> int:
    """Parameters of the tower for images or sounds of a configuration."""
    model = import_config(config, "config.json", name="recorded").model
    if tower == "sounds":
        return sum(extra.parameters for extra in model.extra_weights if extra.name == "audio tower")
    assert model.vision is not None
    return parameter_count(model) - parameter_count(model.model_copy(update={"vision": None}))


def cases() -> list[Any]:
    numbers: dict[str, int] = {}
    found = []
    for case in CASES:
        kind = case["config"]["model_type"]
        numbers[kind] = numbers.get(kind, 0) + 1
        found.append(pytest.param(case, id=f"{kind}-{case['tower']}-{numbers[kind]}"))
    return found


@pytest.mark.parametrize("case", cases())
def test_towers_are_transformers_own(case: dict[str, Any]) -> None:
    assert counted(case["config"], case["tower"]) == case["parameters"]


def test_most_classes_are_recorded_with_three_sets_of_widths() -> None:
    kinds = [(case["config"]["model_type"], case["tower"]) for case in CASES]
    assert len(set(kinds)) == 79
    assert sum(kinds.count(kind) == 3 for kind in set(kinds)) == 72
