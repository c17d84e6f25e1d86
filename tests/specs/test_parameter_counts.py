"""Every bundled model has about as many parameters as its name says, or why its name says something else."""

from __future__ import annotations

import re

import pytest

from kvplan.sizing.weights import parameter_count
from kvplan.specs.catalog import entries, load_entry
from kvplan.specs.model import ModelSpec

ENTRIES = [entry for entry in entries("model") if entry.origin == "bundled"]

NAMED = re.compile(r"(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)(b|m)(?![a-z0-9])")

TOLERANCE = 0.06
"""Names round: 7B is anything from 6.6 to 7.4, and more."""

REASONS = {
    "rounded down": "baichuan2-7b baichuan2-13b ernie-4.5-0.3b gemma-2b gemma-7b gemma-2-2b gemma-3-4b internlm2.5-7b "
    "llama-3.2-1b llama-3.2-3b mimo-7b ministral-3-3b qwen2-7b qwen2.5-7b recurrentgemma-2b starcoder2-15b",
    "rounded up": "stablelm-zephyr-3b",
    "the vision tower is in the count": "qwen3-vl-8b",
    "attention is shared, so eight experts are less than eight models": "mixtral-8x7b mixtral-8x22b",
    "the name gives the active parameters": "olmoe-1b-7b",
}  # fmt: skip
"""Models whose count is further from their name, by reason."""

BILLIONS = {
    "baichuan2-7b": 7.506, "baichuan2-13b": 13.897, "ernie-4.5-0.3b": 0.361, "gemma-2b": 2.506, "gemma-7b": 8.538,
    "gemma-2-2b": 2.614, "gemma-3-4b": 4.300, "internlm2.5-7b": 7.738, "llama-3.2-1b": 1.236, "llama-3.2-3b": 3.213,
    "mimo-7b": 7.623, "ministral-3-3b": 3.849, "qwen2-7b": 7.616, "qwen2.5-7b": 7.616, "recurrentgemma-2b": 2.683,
    "starcoder2-15b": 15.958, "stablelm-zephyr-3b": 2.795, "qwen3-vl-8b": 8.767, "mixtral-8x7b": 46.703,
    "mixtral-8x22b": 140.621, "olmoe-1b-7b": 6.919,
    # Names without a number.
    "gpt2": 0.1244, "gpt2-medium": 0.3548, "gpt2-large": 0.7740, "gpt2-xl": 1.5576, "phi-2": 2.780, "phi-4": 14.660,
    "phi-3-mini-4k": 3.821, "phi-3-medium-4k": 13.960, "phi-3.5-moe": 41.873, "dbrx": 131.597, "command-r-v01": 34.981,
    "command-r-plus": 103.811, "deepseek-v2": 235.741, "deepseek-v2-lite": 15.706, "deepseek-v3": 671.026,
    "kimi-k2": 1026.408, "glm-4.5": 352.798, "glm-4.5-air": 106.852, "glm-4.7-flash": 29.943, "glm-5": 743.911,
    "minimax-m2.5": 228.690, "minimax-text-01": 456.089, "jamba-v0.1": 51.570, "jamba-1.5-large": 398.556,
    "llama-4-scout": 108.642, "llama-4-maverick": 401.585, "mistral-large-2407": 122.610, "santacoder": 1.1249,
    "starcoder": 15.5175, "granite-4.0-h-small": 32.207, "flan-t5-xl": 2.850, "t5-small": 0.0605,
    "whisper-large-v3": 1.5435, "whisper-large-v3-turbo": 0.8089, "gemma-3n-e4b": 7.850, "step-3.7-flash": 197.8,
}  # fmt: skip
"""Billions of parameters of published checkpoints whose names do not say them well (to 3 %)."""


def in_name(name: str) -> float | None:
    """Billions of parameters in a name: ``70b`` 70, ``8x7b`` 56, ``560m`` 0.56; ``None`` where it has none."""
    match = NAMED.search(name)
    if match is None:
        return None
    times, number, unit = match.groups()
    return int(times or 1) * float(number) * (1 if unit == "b" else 1e-3)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_counts_are_what_names_say(entry) -> None:
    spec = load_entry(entry, ModelSpec)
    billions = parameter_count(spec) / 1e9
    excused = {name for names in REASONS.values() for name in names.split()}
    if entry.name in BILLIONS:
        assert billions == pytest.approx(BILLIONS[entry.name], rel=0.03)
    named = in_name(entry.name)
    if named is None:
        return
    agrees = billions == pytest.approx(named, rel=TOLERANCE)
    assert agrees != (entry.name in excused), f"{billions:.3f} billion in {entry.name}"


def test_excused_models_are_held_to_published_counts() -> None:
    known = {entry.name for entry in ENTRIES}
    excused = {name for names in REASONS.values() for name in names.split()}
    assert excused <= set(BILLIONS)
    assert set(BILLIONS) <= known


def test_most_names_are_a_check() -> None:
    assert sum(in_name(entry.name) is not None or entry.name in BILLIONS for entry in ENTRIES) >= 170


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama-3-70b", 70),
        ("mixtral-8x7b", 56),
        ("bloom-560m", 0.56),
        ("qwen3-235b-a22b", 235),
        ("phi-4", None),
    ],
)
def test_numbers_in_names(name: str, billions: float | None) -> None:
    assert in_name(name) == (None if billions is None else pytest.approx(billions))
