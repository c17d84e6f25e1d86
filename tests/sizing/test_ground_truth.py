"""Sizes of real configurations against what transformers 5.23 and vLLM 0.33 themselves allocate.

Needs the shared measurements. A row that differs must stand in ``EXPLAINED`` with its reason.
"""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from kvplan.errors import SpecError
from kvplan.sizing.size import SizeReport, size_model
from kvplan.specs.huggingface import read_config
from kvplan.specs.model import ModelSpec

pytestmark = pytest.mark.shared

REFUSED: dict[str, str] = {}
EXPLAINED = {
    (
        "Zyphra/ZAYA1-8B",
        "vllm state",
    ): "vLLM keeps its convolution tails outside the KV cache specs that were measured",
}
CONTEXTS = {"hf_kv_bytes_4k": 4096, "hf_kv_bytes_32k": 32_768, "hf_kv_bytes_128k": 131_072}


def _rows(shared: Path) -> list[dict[str, str]]:
    with open(shared / "data/kv_ground_truth.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def _model(shared: Path, name: str) -> ModelSpec:
    return read_config(shared / "data/model_configs" / (name.replace("/", "__") + ".json")).model


def _size(spec: ModelSpec, tokens: int, retention: str) -> SizeReport:
    return size_model(spec, context_tokens=tokens, kv="bf16", retention=retention)


def test_transformers_to_the_byte(shared: Path) -> None:
    compared, wrong = 0, []
    for row in _rows(shared):
        if row["model"] in REFUSED or not row["hf_kv_bytes_4k"]:
            continue
        spec = _model(shared, row["model"])
        for column, tokens in CONTEXTS.items():
            report = _size(spec, tokens, "transformers")
            wrong += _compare(row, column, report.kv_bytes_per_sequence)
        wrong += _compare(row, "kv_bytes_per_token_bf16_asymptotic", report.kv_bytes_per_token)
        if row["hf_state_bytes_per_seq"].isdigit():
            wrong += _compare(row, "hf_state_bytes_per_seq", report.state_bytes_per_sequence)
        compared += 1
    assert wrong == []
    assert compared >= 100


def test_vllm_to_the_byte(shared: Path) -> None:
    compared, wrong, explained = 0, [], set()
    for row in _rows(shared):
        if row["model"] in REFUSED or not row["vllm033_linear_bytes_per_token"]:
            continue
        report = _size(_model(shared, row["model"]), 131_072, "vllm")
        growing = sum((r.count * r.bytes_per_token for r in report.rows), Fraction(0))
        windows = sum((r.count * r.window_bytes_per_token for r in report.rows), Fraction(0))
        # vLLM's specs give the bytes of a page token, cross attention included.
        crossed = sum(
            r.count * store.bytes_per_token()
            for r in report.rows
            for store in r.stores
            if store.reach == "encoder"
        )
        wrong += _compare(row, "vllm033_linear_bytes_per_token", growing + crossed)
        wrong += _compare(row, "vllm033_window_layers_bytes_per_token_inside_window", windows)
        state = _compare(row, "vllm033_state_bytes_per_seq", report.state_bytes_per_sequence)
        if state and (row["model"], "vllm state") in EXPLAINED:
            explained.add((row["model"], "vllm state"))
        else:
            wrong += state
        compared += 1
    assert wrong == []
    assert explained == set(EXPLAINED), "a reason that explains nothing any more must go"
    assert compared >= 70


def _compare(row: dict[str, str], column: str, found: Any) -> list[str]:
    if row[column] == "" or Fraction(row[column]) == found:
        return []
    return [f"{row['model']} {column}: measured {row[column]}, computed {found}"]


def test_refusals_are_few_and_say_why(shared: Path) -> None:
    refused = {}
    for row in _rows(shared):
        try:
            _model(shared, row["model"])
        except SpecError as exc:
            refused[row["model"]] = str(exc)
    assert set(refused) == set(REFUSED)


@pytest.mark.parametrize(
    ("name", "self_bytes", "cross_bytes", "encoder"),
    [("openai/whisper-tiny", 6144, 9_216_000, None), ("google-t5/t5-small", 12_288, 12_288, 1)],
)
def test_encoder_decoder(
    shared: Path, name: str, self_bytes: int, cross_bytes: int, encoder: int | None
) -> None:
    report = size_model(
        _model(shared, name), context_tokens=448, kv="bf16", retention="transformers", encoder_tokens=encoder
    )
    assert report.kv_bytes_per_token == self_bytes
    assert report.encoder_bytes_per_sequence == cross_bytes
