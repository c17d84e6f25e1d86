"""``kvplan size``: the contract of its document, its table, its errors, and what it may import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvplan.cli.app import run

HEAVY = ("numpy", "pandas", "plotly", "torch", "triton", "jinja2", "pyarrow", "huggingface_hub", "rich")

CONFIG = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 12288,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}


def document(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert run(["size", *argv, "--format", "json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["llama3-70b", "--ctx", "128k", "--dtype", "fp16"], "kv_bytes_per_sequence", 42_949_672_960),
        (["llama3-70b", "--ctx", "131072", "--dtype", "fp8"], "total_bytes", 21_474_836_480),
        (["deepseek-v3", "--dtype", "bf16"], "kv_bytes_per_token", 70_272),
        (["meta-llama/Llama-2-7b-hf"], "kv_bytes_per_token", 524_288),
        (["llama-3.1-8b", "--ctx", "1k", "--batch", "4", "--tp", "2"], "bytes_per_gpu", 4 * 1024 * 65_536),
        (
            ["gemma-2-27b", "--ctx", "8k", "--retention", "ideal"],
            "kv_bytes_per_sequence",
            8192 * (4095 + 8192) * 23,
        ),
        (["whisper-tiny", "--dtype", "bf16"], "encoder_kv_bytes_per_sequence", 9_216_000),
        (
            ["deepseek-v3", "--tp", "8", "--ctx", "1k", "--dp-attention", "--batch", "8"],
            "bytes_per_gpu",
            1024 * 70_272,
        ),
        (
            ["mistral-7b-v0.1", "--retention", "transformers", "--ctx", "8k"],
            "kv_bytes_per_sequence",
            4095 * 131_072,
        ),
    ],
)
def test_known_answers(capsys: pytest.CaptureFixture[str], argv: list[str], key: str, value: int) -> None:
    assert document(capsys, *argv)[key] == value


def test_the_document_echoes_what_was_resolved(capsys: pytest.CaptureFixture[str]) -> None:
    answer = document(
        capsys, "llama3-70b", "--ctx", "128k", "--dtype-k", "fp8", "--dtype-v", "int4", "--block-size", "32"
    )
    assert answer["schema"] == "kvplan.size/1"
    assert answer["model"] == "llama-3-70b"
    assert answer["inputs"]["context_tokens"] == 131_072
    assert answer["inputs"]["dtype"] == "fp8_e4m3/int4_g64"
    assert answer["inputs"]["block_size"] == 32
    assert answer["layers"][0]["kind"] == "GQA"
    assert answer["layers"][0]["count"] == 80
    assert any("beyond the 8,192" in message for message in answer["warnings"])


def test_a_config_its_directory_and_a_spec_give_the_same_answer(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path
) -> None:
    assert run(["models", "import", str(config), "-o", "-"]) == 0
    spec = tmp_path / "spec.yaml"
    spec.write_text(capsys.readouterr().out)
    answers = [document(capsys, str(path), "--ctx", "32k") for path in (config, tmp_path, spec)]
    assert {answer["kv_bytes_per_sequence"] for answer in answers} == {32_768 * 147_456}


def test_the_table_is_narrow_and_compares_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["size", "llama3-70b", "--ctx", "128k", "--dtype", "fp8"]) == 0
    out, err = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= 80
    assert "2 (K,V) x 8 heads x 128" in out
    assert "21,474,836,480" in out
    for name in ("bf16", "int4", "nvfp4", "kivi2"):
        assert name in out
    assert "fp8_ds_mla" not in out
    assert "beyond the 8,192" in err


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert run(["size", *argv]) == 0
    return capsys.readouterr().out.partition("\n  other KV formats")[0]


def test_a_single_kind_of_layer_is_billed_once(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "llama3-70b", "--ctx", "8k")
    assert text.count("327,680 B") == text.count("2,684,354,560 B") == 1
    for formula in (
        "80 layers x 2 (K,V) x 8 heads x 128 x 2",
        "80 layers x 8,192 tokens kept",
        "allocated per sequence: blocks of 16 tokens",
        "total: 1 sequence",
    ):
        assert formula in text
    assert shown(capsys, "llama3-70b", "--ctx", "8k", "--batch", "3").count("8,053,063,680 B") == 1


def test_several_kinds_of_layers_are_billed_each(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "gemma-2-27b", "--ctx", "8k")
    names = (
        "sliding: K and V per token",
        "full: K and V per token",
        "\n  KV per token",
        "sliding: K and V per sequence",
        "full: K and V per sequence",
        "\n  per sequence",
    )
    assert all(name in text for name in names)


def test_equal_numbers_of_different_things_stay_apart(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "llama3-70b", "--ctx", "1", "--retention", "ideal")
    assert "  KV per token" in text
    assert "  per sequence" in text
    none = shown(capsys, "mamba-2.8b")
    assert "  KV per token" in none
    assert "  per sequence" in none
    assert not [line for line in none.splitlines() if line != line.rstrip()]


@pytest.mark.parametrize(
    "model", ["deepseek-v4-flash", "qwen3.5-397b-a17b", "gemma-3n-e4b", "whisper-large-v3", "nemotron-h-56b"]
)
@pytest.mark.parametrize("form", ["table", "md", "csv"])
def test_every_kind_of_model_prints(capsys: pytest.CaptureFixture[str], model: str, form: str) -> None:
    assert run(["size", model, "--tp", "2", "--format", form]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    if form == "table":
        assert max(map(len, out.splitlines())) <= 80


def test_the_answer_is_the_same_every_time(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = set()
    for _ in range(2):
        run(["size", "deepseek-v3.2", "--tp", "8", "--format", "json"])
        outputs.add(capsys.readouterr().out)
    assert len(outputs) == 1


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["lama-3.1-70b"], 2, ["lama-3.1-70b", "llama-3.1-70b"]),
        (["llama3-70b", "--tp", "3"], 2, ["tp 3", "query heads"]),
        (["llama3-70b", "--ctx", "many"], 2, ["token count"]),
        (["llama3-70b", "--ctx", "0"], 2, ["between 1"]),
        (["llama3-70b", "--dtype", "fp9"], 2, ["fp9", "fp8"]),
        (["llama3-70b", "--dtype", "fp8_ds_mla"], 2, ["MLA"]),
        (["llama3-70b", "--retention", "vlmm"], 2, ["vlmm", "vllm"]),
        (["llama3-70b", "--batch", "0"], 2, ["batch"]),
        (["absent/config.json"], 1, ["absent/config.json"]),
        (["llama3-70b", "--draft"], 2, ["multi-token"]),
    ],
)
def test_errors_name_the_matter_and_exit_by_contract(
    capsys: pytest.CaptureFixture[str], argv: list[str], code: int, words: list[str]
) -> None:
    assert run(["size", *argv]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    for word in words:
        assert word in err
    assert run(["size", *argv, "--format", "json"]) == code
    assert json.loads(capsys.readouterr().err)["error"]["exit_code"] == code


def test_a_broken_config_names_file_and_field(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    config.write_text(json.dumps({**CONFIG, "num_hidden_layers": 0}))
    assert run(["size", str(config)]) == 1
    err = capsys.readouterr().err
    assert str(config) in err
    assert "num_hidden_layers" in err


def test_a_directory_without_a_config_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["size", str(tmp_path)]) == 1
    assert "config.json" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["llama3-70b", "config"])
def test_nothing_heavy_is_imported(config: Path, target: str) -> None:
    argv = ["size", str(config) if target == "config" else target, "--format", "json"]
    code = (
        "import sys, contextlib, io\n"
        "from kvplan.cli.app import run\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    assert run({argv!r}) == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_model_from_standard_input_or_a_pipe(config: Path) -> None:
    def out(command: str) -> str:
        shell = ["bash", "-c", command.format(run=f"{sys.executable} -m kvplan", config=config)]
        done = subprocess.run(shell, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    sizes = {
        json.loads(out(command))["kv_bytes_per_token"]
        for command in (
            "{run} size {config} --format json",
            "{run} size - --format json < {config}",
            "{run} size <(cat {config}) --format json",
            "{run} models show {config} | {run} size - --format json",
        )
    }
    assert sizes == {36 * 2 * 8 * 128 * 2}


@pytest.mark.parametrize(
    "option",
    ["--batch", "--block-size", "--max-num-batched-tokens", "--images", "--tp", "--pp", "--cp", "--dp"],
)
@pytest.mark.parametrize("value", ["9" * 30, "9" * 4000, "9" * 5000, "-1", "nan", "1e5", "true"])
def test_impossible_numbers_are_errors_of_usage(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    assert run(["size", "llama3-8b", option, value]) == 2
    assert "error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["gemma-3-27b"], "  windows save 73%: all 62 layers over 131,072 tokens would take 62.00 GiB"),
        (["llama-4-scout", "--ctx", "1m"], "  chunks save 73%: all 48 layers over"),
        (["gemma-3-27b", "--ctx", "512"], None),
        (["llama-3.1-8b"], None),
        (["deepseek-v3"], None),
    ],
)
def test_what_windows_save_is_said_in_a_line(
    argv: list[str], line: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["size", *argv]) == 0
    said = [text for text in capsys.readouterr().out.splitlines() if " save " in text]
    assert len(said) == (line is not None)
    assert all(text.startswith(line or "") and len(text) <= 80 for text in said)


def test_the_other_formats_say_how_many_sequences_a_gpu_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["size", "llama3-70b", "--ctx", "8k", "--tp", "8", "--batch", "16"]) == 0
    (head,) = (line for line in capsys.readouterr().out.splitlines() if "other KV formats" in line)
    assert "allocated/seq" in head
    assert "per GPU, 16 seqs" in head
    assert run(["size", "llama3-70b", "--ctx", "8k", "--tp", "8", "--dp", "4", "--batch", "16"]) == 0
    assert "per GPU, 4 seqs" in capsys.readouterr().out


def test_copies_on_every_gpu_still_have_a_line_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["size", "deepseek-v3", "--ctx", "32k", "--tp", "8", "--batch", "16"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  per GPU"))
    assert line.endswith("34.31 GiB")
