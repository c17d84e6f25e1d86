"""KV number formats that checkpoints name: what each engine takes of them.

``golden/recorded/kv-formats.jsonl.gz`` holds what vLLM 0.33's and SGLang 0.5.23's own functions made of invented
quantization configurations: a format, nothing (the model's dtype), or a refusal.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.sizing.capacity import fit_model
from kvplan.sizing.flags import no_command
from kvplan.sizing.size import size_model
from kvplan.specs.catalog import load_gpu
from kvplan.specs.dump import model_yaml
from kvplan.specs.huggingface import Imported, import_config
from kvplan.specs.model import ModelSpec

RECORDED = Path(__file__).parents[1] / "golden" / "recorded" / "kv-formats.jsonl.gz"
HEADS: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1024,
    "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 32000,
    "intermediate_size": 4096,
}  # fmt: skip
LATENTS: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 1024,
    "num_hidden_layers": 4, "num_attention_heads": 16, "vocab_size": 32000, "intermediate_size": 4096,
    "kv_lora_rank": 512, "q_lora_rank": 256, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128,
    "v_head_dim": 128,
}  # fmt: skip
SCHEME = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
NVFP4_CACHE = {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "NVFP4"}


def read(config: dict[str, Any], raw: dict[str, Any], key: str = "quantization_config") -> Imported:
    return import_config({**config, key: raw}, "config.json", name="test")


def asked(model: ModelSpec) -> tuple[str | None, str | None]:
    return model.asked_format("vllm"), model.asked_format("sglang")


def test_every_recorded_configuration_is_read_as_the_engines_read_it() -> None:
    rows = [json.loads(line) for line in gzip.decompress(RECORDED.read_bytes()).splitlines()]
    assert len(rows) > 150
    for row in rows:
        for config, vllm in ((HEADS, row["vllm"]), (LATENTS, row["vllm_latents"])):
            imported = read(config, row["raw"], row["key"])
            found = asked(imported.model)
            if vllm != "refused":
                assert found[0] == vllm, row
                assert not any("vLLM refuses" in word for word in imported.warnings)
            elif row["raw"].get("quant_method", "").startswith("compressed"):
                assert any("vLLM refuses" in word for word in imported.warnings), row
            if row["sglang"] != "refused":
                assert found[1] == row["sglang"], row


def test_a_four_bit_cache_is_vllms_alone() -> None:
    imported = read(HEADS, NVFP4_CACHE)
    assert imported.model.kv_format == {"vllm": "nvfp4"}
    (word,) = [text for text in imported.warnings if "KV" in text]
    assert "vLLM keeps it in nvfp4, SGLang in bf16" in word
    assert "kv_format: {vllm: nvfp4}" in model_yaml(imported.model)
    gpu = load_gpu("b200")
    assert fit_model(imported.model, gpu).kv_format.name == "nvfp4"
    assert fit_model(imported.model, gpu, engine="sglang").kv_format.name == "bf16"
    assert fit_model(imported.model, gpu, engine="sglang", kv_dtype="fp8").kv_format.name == "fp8_e4m3"
    sizes = {
        name: size_model(imported.model, context_tokens=64, retention=name) for name in ("vllm", "sglang")
    }
    assert [report.request.form.name for report in sizes.values()] == ["nvfp4", "bf16"]


def test_latents_of_compressed_tensors_are_in_fp8_below_sglang_only() -> None:
    raw = {"quant_method": "compressed-tensors", "kv_cache_scheme": SCHEME}
    assert asked(read(LATENTS, raw).model) == (None, "fp8_e4m3")
    assert read(HEADS, raw).model.kv_format == "fp8_e4m3"
    assert asked(read(HEADS, {**raw, "kv_cache_scheme": {**SCHEME, "dynamic": True}}).model) == (
        "fp8_e4m3",
        None,
    )


@pytest.mark.parametrize(
    ("architecture", "raw", "expected"),
    [
        ("Starcoder2ForCausalLM", NVFP4_CACHE | {"kv_cache_quant_algo": "FP8"}, ("fp8_e4m3", None)),
        ("BailingMoeForCausalLM", {"quant_method": "compressed-tensors", "kv_cache_scheme": SCHEME},
         (None, "fp8_e4m3")),
    ],
)  # fmt: skip
def test_some_classes_do_not_look(
    architecture: str, raw: dict[str, Any], expected: tuple[str | None, str | None]
) -> None:
    assert asked(read({**HEADS, "architectures": [architecture]}, raw).model) == expected


def test_what_only_the_language_model_says_is_seen_by_compressed_tensors_alone() -> None:
    for raw, vllm in (
        (NVFP4_CACHE, None),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": SCHEME}, "fp8_e4m3"),
    ):
        text = {**HEADS, "quantization_config": raw}
        whole = {
            "architectures": ["LlavaForConditionalGeneration"],
            "model_type": "llava",
            "text_config": text,
        }
        assert asked(import_config(whole, "config.json", name="test").model) == (vllm, None)


def test_quarks_own_way_to_name_the_cache_needs_an_option() -> None:
    raw = {"quant_method": "quark", "export": {"kv_cache_group": ["*k_proj", "*v_proj"]},
           "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}}  # fmt: skip
    imported = read(HEADS, raw)
    assert imported.model.kv_format is None
    assert any("no KV format from files of quark" in word for word in imported.warnings)


def test_mixed_files_that_do_not_speak_of_the_cache_send_sglang_to_another() -> None:
    layers = {"model.layers.0.mlp.down_proj": {"quant_algo": "NVFP4"}}
    raw = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    assert any("SGLang reads hf_quant_config.json" in word for word in read(HEADS, raw).warnings)


def test_falcons_class_hears_of_a_scheme_but_not_of_the_cache() -> None:
    falcon = {**HEADS, "architectures": ["FalconForCausalLM"], "model_type": "falcon"}
    modelopt = NVFP4_CACHE | {"kv_cache_quant_algo": "FP8"}
    assert asked(read(falcon, modelopt).model) == (None, "fp8_e4m3")
    scheme = read(falcon, {"quant_method": "compressed-tensors", "kv_cache_scheme": SCHEME}).model
    assert asked(scheme) == ("fp8_e4m3", "fp8_e4m3")
    assert no_command(fit_model(scheme, load_gpu("h200")), "vllm") is None
