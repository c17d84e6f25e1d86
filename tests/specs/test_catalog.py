"""Finding specs: names, aliases, precedence, extends."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvplan.errors import SpecError, UnknownName
from kvplan.specs.catalog import entries, find, load_model
from kvplan.specs.resolve import resolve_model

BASE = """\
name: {name}
family: test
aliases: {aliases}
source: {{url: "https://example.org"}}
hidden_size: 64
vocab_size: 100
blocks:
  full:
    attention: {{kind: full, query_heads: 4, kv_heads: 2, head_dim: 16}}
layout:
  - {{repeat: 2, blocks: [full]}}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A specs directory that comes before every other."""
    models = tmp_path / "models" / "test"
    models.mkdir(parents=True)
    monkeypatch.setenv("KVPLAN_SPECS", str(tmp_path))
    return models


def _write(directory: Path, name: str, aliases: str = "[]", text: str = BASE) -> None:
    (directory / f"{name}.yaml").write_text(text.format(name=name, aliases=aliases))


@pytest.mark.parametrize(
    "name",
    [
        "llama-3-70b",
        "llama3-70b",
        "LLAMA3-70B",
        "meta-llama/Meta-Llama-3-70B",
        "Meta-Llama/meta-llama-3-70b-instruct",
        "Meta-Llama-3-70B-Instruct",
    ],
)
def test_names_aliases_and_hub_ids_resolve_in_any_case(name: str) -> None:
    assert load_model(name).name == "llama-3-70b"


def test_the_end_of_a_hub_id_that_several_models_have_names_none(own: Path) -> None:
    for name in ("one", "two"):
        _write(own, name, f"[{name}/Same-7B]")
    with pytest.raises(UnknownName) as caught:
        load_model("same-7b")
    assert {"one/Same-7B", "two/Same-7B"} <= set(caught.value.suggestions)
    assert load_model("two/same-7b").name == "two"


def test_an_unknown_name_suggests_and_says_where_it_looked() -> None:
    with pytest.raises(UnknownName) as caught:
        load_model("lama-3.1-70b")
    assert "llama-3.1-70b" in caught.value.suggestions
    assert "bundled" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("part", "times"), [("x", 300), ("x", 200_000), ("y.json", 900), ("a/", 4000), ("org/name", 900)]
)
def test_a_name_without_end_is_unknown_and_not_repeated(part: str, times: int) -> None:
    name = part * times
    with pytest.raises(UnknownName, match="unknown model") as caught:
        resolve_model(name)
    assert len(str(caught.value)) < 400
    assert f"({len(name) + 2:,} characters)" in caught.value.message


def test_an_unknown_hub_id_points_to_import() -> None:
    with pytest.raises(UnknownName) as caught:
        load_model("someone/Something-7B")
    assert "kvplan models import someone/Something-7B" in (caught.value.hint or "")


def test_own_specs_come_before_the_bundled_ones(own: Path) -> None:
    _write(own, "llama-3-70b")
    assert find("model", "llama-3-70b").origin == "KVPLAN_SPECS"
    assert load_model("llama-3-70b").num_layers == 2


def test_block_style_aliases_are_found(own: Path) -> None:
    _write(own, "mine", aliases="\n  - First/One\n  - second")
    assert load_model("first/one").name == load_model("SECOND").name == "mine"


def test_the_file_name_must_be_the_name(own: Path) -> None:
    (own / "other.yaml").write_text(BASE.format(name="mine", aliases="[]"))
    with pytest.raises(SpecError, match="differs from the file name"):
        load_model("other")


def test_extends_changes_only_what_it_says(own: Path) -> None:
    _write(own, "mine", aliases="[a]")
    (own / "wider.yaml").write_text(
        "extends: mine\nname: wider\nmax_context: 4096\nblocks: {full: {attention: {kv_heads: 4}}}\n"
    )
    wider, mine = load_model("wider"), load_model("mine")
    assert wider.blocks["full"].attention.kv_heads == 4
    assert wider.blocks["full"].attention.query_heads == mine.blocks["full"].attention.query_heads
    assert wider.max_context == 4096
    assert wider.aliases == ()


def test_extends_with_another_kind_replaces_the_variant(own: Path) -> None:
    _write(own, "mine")
    (own / "latent.yaml").write_text(
        "extends: mine\nname: latent\nblocks:\n  full:\n    attention: {kind: mla, query_heads: 4, kv_lora_rank: 32,"
        " rope_head_dim: 8, nope_head_dim: 16, v_head_dim: 16}\n"
    )
    assert load_model("latent").blocks["full"].attention.kind == "mla"


def test_extends_in_a_circle_is_refused(own: Path) -> None:
    (own / "a.yaml").write_text("extends: b\nname: a\n")
    (own / "b.yaml").write_text("extends: a\nname: b\n")
    with pytest.raises(SpecError, match="circle"):
        load_model("a")


def test_entries_are_sorted_and_unique() -> None:
    names = [entry.name for entry in entries("model")]
    assert names == sorted(set(names))


@pytest.mark.parametrize("there", [True, False])
def test_a_place_that_was_named_and_holds_none_is_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Specs beside ``models/`` instead of in it, or a directory that is not there: both were passed over."""
    monkeypatch.chdir(tmp_path)  # a hint has room for short paths
    root = Path("specs")
    if there:
        root.mkdir()
        _write(root, "my-model")
    monkeypatch.setenv("KVPLAN_SPECS", str(root))
    with pytest.raises(UnknownName) as caught:
        find("model", "my-model-7b-of-nobody")
    assert f"KVPLAN_SPECS (none in {root / 'models'})" in (caught.value.hint or "")
