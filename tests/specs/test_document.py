"""YAML and JSON from outside: bounded, safe, and every complaint with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, model_validator

from kvplan.errors import SpecError, UsageError
from kvplan.specs import json_document
from kvplan.specs.catalog import load_text
from kvplan.specs.document import YamlDocument, key_path, parse_value, parse_yaml, validate
from kvplan.specs.json_document import parse_json, read_json
from kvplan.specs.model import ModelSpec

GOOD = """\
name: tiny
family: test
source: {url: "https://example.org"}
hidden_size: 64
vocab_size: 100
blocks:
  full:
    attention: {kind: full, query_heads: 4, kv_heads: 2, head_dim: 16}
    mlp: {kind: dense, intermediate_size: 128}
layout:
  - {repeat: 2, blocks: [full]}
"""


def _error(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        load_text(text, "x.yaml", ModelSpec)
    return caught.value


def test_what_is_wrong_is_said_in_the_order_of_the_file() -> None:
    text = GOOD.replace("family", "famly").replace("vocab_size", "vocab_sise").replace("  full:", "  fill:")
    error = _error(text)
    assert error.where == "x.yaml:2  famly"
    assert error.message.index("x.yaml:5  vocab_sise") > 0


def test_a_good_spec_loads() -> None:
    assert load_text(GOOD, "x.yaml", ModelSpec).num_layers == 2


def test_a_misspelt_field_names_line_path_and_the_right_one() -> None:
    error = _error(GOOD.replace("kv_heads", "kv_head"))
    assert error.where == "x.yaml:8  blocks.full.attention.kv_head"
    assert "kv_heads" in error.message


def test_every_problem_is_listed() -> None:
    error = _error(
        GOOD.replace("hidden_size: 64", "hidden_size: 0").replace("vocab_size: 100", "vocab_size: many")
    )
    assert "x.yaml:4" in (error.where or "")
    assert "x.yaml:5" in error.message


@pytest.mark.parametrize("value", ["true", "64.0", "'64'", "-1", "0", "1.0e+3"])
def test_sizes_are_whole_positive_numbers(value: str) -> None:
    assert "hidden_size" in (_error(GOOD.replace("hidden_size: 64", f"hidden_size: {value}")).where or "")


def test_a_missing_kind_is_said() -> None:
    assert "kind" in _error(GOOD.replace("kind: full, ", "")).message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [1, 2", "malformed YAML"),
        ("- 1\n- 2\n", "expected a mapping"),
        ("", "found nothing"),
        ("a: 1\na: 2\n", "duplicate key"),
        ("a: &x [1]\nb: *x\n", "anchors"),
        ("a: !!python/object/apply:os.system [ls]\n", "malformed YAML"),
        ("a: 1\n---\nb: 2\n", "malformed YAML"),
        ("? [1, 2]\n: 3\n", "plain text"),
        ("a: " + "[" * 5000, "nested more than 64 deep"),
    ],
)
def test_hostile_yaml_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        parse_yaml(text, "x.yaml")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"a": 1', "malformed JSON"),
        ("[1]", "expected a JSON object, found a list"),
        ("null", "found nothing"),
        ('{"a": ' + "[" * 100_000, "nested too deeply|malformed JSON"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
    ],
)
def test_hostile_json_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(SpecError, match=complaint) as caught:
        read_json(path)
    assert "config.json" in (caught.value.where or "")


@pytest.mark.parametrize("constant", ["NaN", "-Infinity"])
def test_configurations_may_have_infinities_and_measurements_not(tmp_path: Path, constant: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(f'{{"a": {constant}}}')
    assert "a" in read_json(path)
    with pytest.raises(SpecError, match=f"malformed JSON: {constant} is no number"):
        read_json(path, finite=True)


def test_a_page_instead_of_a_file_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("Access to model meta-llama/Llama-3.1-8B is restricted. You must be authenticated.")
    with pytest.raises(SpecError) as caught:
        read_json(path)
    assert caught.value.hint is not None
    assert "it begins: Access to model meta-llama/Llama-3.1-8B is restricted" in caught.value.hint


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
def test_files_as_windows_writes_them(tmp_path: Path, coding: str) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"hidden_size": 1}\r\n', encoding=coding)
    assert read_json(path) == {"hidden_size": 1}


def test_an_oversized_file_is_refused_without_reading_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_document, "MAX_JSON_BYTES", 1000)
    path = tmp_path / "model.json"
    path.write_text('{"a": "' + "x" * 5000 + '"}')
    with pytest.raises(SpecError, match="larger than the limit of 1,000 bytes"):
        read_json(path)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(SpecError, match="UTF-8"):
        read_json(path)


def test_key_paths_read_like_code() -> None:
    assert key_path(("layers", 0, "attention")) == "layers[0].attention"


@pytest.mark.parametrize(
    "text", ["a: " + "[" * 500_000, "- " * 300_000 + "a", "{a: " * 100_000, "a: " + "[" * 70 + "]" * 70]
)
def test_deep_nesting_is_refused_before_it_is_built(text: str) -> None:
    with pytest.raises(SpecError, match="nested more than 64 deep"):
        parse_yaml(text, "x.yaml")


def test_a_long_value_is_cut_and_a_huge_number_named() -> None:
    class Shape(BaseModel):
        size: int = Field(strict=True, le=10)

    for value, words in (("x" * 9999, "'xxx"), (10**5000, "more than 4300 digits")):
        with pytest.raises(SpecError) as caught:
            validate(YamlDocument({"size": value}, "x.yaml", None), Shape)
        assert words in caught.value.message
        assert len(caught.value.message) < 200


def test_an_option_is_named_and_makes_it_an_error_of_usage() -> None:
    class Inner(BaseModel):
        size: int = Field(strict=True, ge=1)

    class Outer(BaseModel):
        inner: Inner

    document = YamlDocument({"inner": {"size": 0}}, "x.yaml", None, {("inner", "size"): "--size"})
    with pytest.raises(UsageError) as caught:
        validate(document, Outer)
    assert caught.value.where == "--size  inner.size"
    with pytest.raises(SpecError) as other:
        validate(YamlDocument({"inner": 3}, "x.yaml", None), Outer)
    assert (other.value.message, other.value.where) == (
        "expected a mapping of fields, found a number",
        "x.yaml  inner",
    )


def test_a_value_obeys_the_rules_of_documents() -> None:
    assert parse_value("[1, 2.5, yes]", "--set") == [1, 2.5, True]
    assert parse_value("", "--set") is None
    for text in ("!!python/object/apply:os.system [ls]", "[&a 1, *a]", "[" * 100_000, "9" * 5000):
        with pytest.raises(SpecError):
            parse_value(text, "--set")


def test_empty_json_is_called_empty() -> None:
    with pytest.raises(SpecError, match="empty"):
        parse_json("\n", "x.json")


@pytest.mark.parametrize(
    ("text", "base"), [("1:30", 60), ("-1:30:00", 60), ("1:30.5", 60), ("010", 8), ("-0_7", 8)]
)
def test_numbers_that_yaml_counts_in_another_base_are_refused(text: str, base: int) -> None:
    with pytest.raises(
        SpecError, match=f"{text} is no plain number: YAML 1.1 counts it in base {base}"
    ) as caught:
        parse_yaml(f"a: 1\nb: [2, {text}]\n", "x.yaml")
    assert caught.value.where == "x.yaml:2"


@pytest.mark.parametrize(
    "text", ["0", "0.5", "10", "1_000", "0x10", "1e5", "1.0e+5", "'1:30'", "01-02", "009", ".inf"]
)
def test_other_numbers_and_text_are_read(text: str) -> None:
    assert parse_yaml(f"a: {text}\n", "x.yaml").data["a"] is not None


def test_a_number_without_end_is_refused_with_its_line_and_not_repeated() -> None:
    with pytest.raises(SpecError) as caught:
        parse_yaml(f"a: 1\nb: {'9' * 6000}\n", "x.yaml")
    assert (caught.value.message, caught.value.where) == ("a number of 6,000 digits", "x.yaml:2")


def test_what_a_shape_copied_elsewhere_is_complained_about_once() -> None:
    class Part(BaseModel):
        size: int = Field(strict=True, ge=1)

    class Whole(BaseModel):
        ours: Part
        theirs: Part

        @model_validator(mode="before")
        @classmethod
        def _twice(cls, data: Any) -> Any:
            return {"ours": data["theirs"], **data}

    for value in (0, "many"):
        document = YamlDocument({"theirs": {"size": value}}, "x.yaml", None)
        with pytest.raises(SpecError) as caught:
            validate(document, Whole)
        assert caught.value.where == "x.yaml  theirs.size"
        assert "also" not in caught.value.message


def test_a_key_of_json_has_one_value(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": 1,\n "b": {"a": 2},\n "c": 3,\n "c": 4}')
    with pytest.raises(SpecError, match="duplicate key 'c' with different values") as caught:
        read_json(path)
    assert caught.value.where == f"{path}:4"
    path.write_text('{"a": 1, "a": 1}')
    assert read_json(path) == {"a": 1}
