"""``kvplan models``: list, show, import, validate, schema."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from kvplan.cli.app import run
from kvplan.specs.catalog import entries, load_entry
from kvplan.specs.dump import model_data
from kvplan.specs.model import ModelSpec

CONFIG = {
    "model_type": "llama",
    "hidden_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 2048,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "Tiny-1B"
    folder.mkdir()
    path = folder / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


def test_list_shows_every_model_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "list", "--format", "json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert [model["name"] for model in models] == [entry.name for entry in entries("model")]
    assert len(models) >= 120


def test_list_searches_names_and_aliases(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "list", "llama3-70b"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("llama-3-70b")
    assert "1 models" in out


@pytest.mark.parametrize("form", ["table", "csv", "md"])
def test_list_prints_in_every_form(capsys: pytest.CaptureFixture[str], form: str) -> None:
    assert run(["models", "list", "gemma", "--format", form]) == 0
    assert "gemma-2-27b" in capsys.readouterr().out


def test_show_prints_the_spec_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "show", "deepseek-v3"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["blocks"]["mla_dense"]["attention"]["kv_lora_rank"] == 512
    assert shown["source"]["url"].startswith("https://huggingface.co/deepseek-ai/DeepSeek-V3")


def test_show_as_json_fits_the_published_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    for name in ("llama-3-70b", "deepseek-v4-flash", "qwen3.5-27b", "whisper-tiny"):
        assert run(["models", "show", name, "--format", "json"]) == 0
        jsonschema.validate(json.loads(capsys.readouterr().out), schema)


def test_the_schema_beside_the_specs_is_the_current_one(capsys: pytest.CaptureFixture[str]) -> None:
    from kvplan.resources import bundled_specs

    assert run(["models", "schema"]) == 0
    assert (bundled_specs() / "schema.json").read_text(encoding="utf-8") == capsys.readouterr().out


def test_every_bundled_spec_fits_the_schema() -> None:
    schema = ModelSpec.model_json_schema(by_alias=True)
    validator = jsonschema.Draft202012Validator(schema)
    for entry in entries("model"):
        if entry.origin == "bundled":
            validator.validate(model_data(load_entry(entry, ModelSpec)))


def test_import_writes_a_spec_that_is_then_found_by_name(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    target = own / "models" / "test" / "tiny-1b.yaml"
    assert (
        run(
            [
                "models",
                "import",
                str(config),
                "-o",
                str(target),
                "--alias",
                "Me/Tiny-1B",
                "--url",
                "https://x.org",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.strip() == str(target)
    monkeypatch.setenv("KVPLAN_SPECS", str(own))
    assert run(["size", "me/tiny-1b", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["kv_bytes_per_token"] == 4 * 2 * 2 * 128 * 2
    assert run(["models", "import", str(config), "-o", str(target)]) == 2
    assert "--force" in capsys.readouterr().err


def test_import_from_the_hub_says_which_extra_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        assert run(["models", "import", "someone/something"]) == 4
        assert "kvplan[hf]" in capsys.readouterr().err
    else:
        pytest.skip("the hf extra is installed; the network is not asked")


def test_import_refuses_text_that_is_neither_a_file_nor_a_hub_id(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "import", "no such thing"]) == 2
    assert "not a Hugging Face id" in capsys.readouterr().err


def test_validate_accepts_good_specs_and_points_into_bad_ones(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path
) -> None:
    good, bad = tmp_path / "specs" / "good.yaml", tmp_path / "specs" / "bad.yaml"
    assert run(["models", "import", str(config), "-o", str(good)]) == 0
    bad.write_text(good.read_text().replace("kv_heads: 2", "kv_heads: 3"))
    assert run(["models", "validate", str(good)]) == 0
    assert "4,096 B/token" in capsys.readouterr().out
    assert run(["models", "validate", str(good.parent)]) == 1
    out, err = capsys.readouterr()
    assert "not a multiple of kv_heads" in out
    assert "bad.yaml:" in out
    assert "1 of 2" in err


def test_validate_takes_the_whole_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    from kvplan.resources import bundled_specs

    assert run(["models", "validate", str(bundled_specs() / "models" / "llama"), "--format", "json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert {item["result"] for item in files} == {"ok"}


def test_import_answers_in_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVPLAN_SPECS", str(tmp_path / "specs"))
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 512,
                "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
                "intermediate_size": 1024, "vocab_size": 1000, "max_position_embeddings": 4096,
            }
        )
    )  # fmt: skip
    before = config.read_text()
    target = str(tmp_path / "tiny.yaml")
    assert run(["models", "import", str(config), "--name", "tiny", "-o", target, "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema"], answer["name"], answer["path"]) == ("kvplan.import/1", "tiny", target)
    assert run(["models", "import", str(config), "-o", "-", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["hidden_size"] == 512
    assert run(["models", "import", str(config), "-o", str(config), "--force"]) == 2
    assert "would overwrite the configuration" in capsys.readouterr().err
    assert config.read_text() == before


def test_a_missing_spec_is_said_without_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "validate", "nope.yaml"]) == 1
    said = capsys.readouterr()
    assert "Errno" not in said.out
    assert "1 of 1 specs is invalid" in said.err


def test_a_configuration_is_not_a_spec_and_says_how_it_becomes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "llama", "num_hidden_layers": 2}')
    assert run(["models", "validate", str(path)]) == 1
    assert f"kvplan models import {path}" in capsys.readouterr().err


def piped(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_a_configuration_from_standard_input_needs_a_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    piped(monkeypatch, json.dumps(CONFIG))
    assert run(["models", "import", "-", "-o", "-"]) == 2
    assert "--name" in capsys.readouterr().err
    assert run(["models", "import", "-", "-o", "-", "--name", "Tiny"]) == 0
    spec = capsys.readouterr().out
    assert "name: tiny" in spec
    piped(monkeypatch, spec)
    assert run(["models", "validate", "-"]) == 0
    assert "ok" in capsys.readouterr().out
    piped(monkeypatch, spec.replace("hidden_size", "hiden_size"))
    assert run(["models", "validate", "-"]) == 1
    assert "<stdin>" in capsys.readouterr().out


def test_a_spec_printed_as_json_is_read_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "show", "gemma-3-12b", "--format", "json"]) == 0
    spec = tmp_path / "spec.json"
    spec.write_text(capsys.readouterr().out)
    piped(monkeypatch, spec.read_text())
    answers = []
    for model in ("gemma-3-12b", str(spec), "-"):
        assert run(["size", model, "--format", "csv"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] == answers[2]
