"""Which measured kernel a step runs where a profile has several, under whatever name a table gives its format."""

import json
from typing import Any

import numpy as np
import pytest

from kvplan.errors import SpecError
from kvplan.latency.fit.profile_file import ProfileFile, read_profile
from kvplan.latency.kernel_choice import newest, version_key
from kvplan.latency.kernel_set import KernelSet
from kvplan.latency.profile import profile_path
from kvplan.sizing.weight_formats import weight_format


@pytest.fixture
def document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(profile_path("a100-80g").read_text(encoding="utf-8"))
    return document


def copied(part: dict[str, Any], **changes: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(part))
    copy["labels"] |= changes.pop("labels", {})
    return copy | changes


def slower(part: dict[str, Any], factor: float) -> dict[str, Any]:
    times = {name: value * factor for name, value in part["parameters"].items() if name.endswith("_s")}
    return copied(part, parameters=part["parameters"] | times)


def part_of(document: dict[str, Any], op: str) -> dict[str, Any]:
    return next(part for part in document["kernels"] if part["op"] == op)


def test_versions_sort_as_people_count() -> None:
    ordered = ["0.9.2", "0.10.0rc1", "0.10.0", "0.10.0.1", "1.0"]
    shuffled = [ordered[index] for index in (3, 1, 4, 0, 2)]
    assert sorted(shuffled, key=version_key) == ordered


def test_of_two_versions_the_newest_is_used_and_others_stay(document: dict[str, Any]) -> None:
    decode = part_of(document, "generation_attention")
    older = copied(decode, measured_with="VLLM 0.9.1")
    newer = copied(decode, measured_with="VLLM 0.15.0")
    other = copied(decode, measured_with="SGLang 0.1")
    document["kernels"] = [older, newer, decode, other]
    assert newest(ProfileFile.model_validate(document).kernels) == [1, 3]


def test_the_fastest_of_several_sources_runs_and_the_result_says_which(
    document: dict[str, Any], tmp_path: Any, clock_of: Any
) -> None:
    decode = part_of(document, "generation_attention")
    slow = slower(copied(decode, labels={"kernel_source": "a_slow_one"}), 3.0)
    plain = clock_of("profile", gpu="a100-80g")
    document["kernels"].insert(0, slow)
    path = tmp_path / "p.json"
    path.write_text(json.dumps(document))
    both = clock_of("profile", gpu="a100-80g", name=str(path))
    assert both.model.tables.decode.at(8, 2048) == plain.model.tables.decode.at(8, 2048)
    (told,) = [item for item in both.assumptions if item.name == "latency.generation_attention"]
    assert "vllm_flash_attn" in str(told.value)
    assert "a_slow_one" in told.source
    assert not [item for item in plain.assumptions if item.name == "latency.generation_attention"]


def test_formats_are_found_under_other_names(document: dict[str, Any], tmp_path: Any, clock_of: Any) -> None:
    for part in document["kernels"]:
        for label in ("gemm_dtype", "kv_cache_dtype"):
            if label in part["labels"]:
                part["labels"][label] = "float16"
    path = tmp_path / "p.json"
    path.write_text(json.dumps(document))
    clock = clock_of("profile", gpu="a100-80g", name=str(path))
    assert clock.model.tables.decode.at(8, 2048) > 0


@pytest.mark.parametrize(
    ("form", "dtype"), [("nvfp4", "nvfp4"), ("awq", "int4_wo"), ("int8", "sq"), ("int8_group128", "int8_wo")]
)
def test_narrow_weights_run_the_kernel_of_their_format(
    document: dict[str, Any], form: str, dtype: str
) -> None:
    document["kernels"].append(copied(part_of(document, "gemm"), labels={"gemm_dtype": dtype}))
    kernels = KernelSet(ProfileFile.model_validate(document), "p.json")
    assert len(kernels.gemms(weight_format(form))) == 1
    assert not KernelSet(read_profile(profile_path("a100-80g")), "x").gemms(weight_format(form))


def test_missing_attention_over_latents_is_called_so(clock_of: Any) -> None:
    with pytest.raises(SpecError, match="bfloat16 MLA attention") as caught:
        clock_of("profile", "deepseek-v3", "a100-80g")
    assert "roofline" in caught.value.hint
    with pytest.raises(SpecError, match="fp8 attention with heads of 128") as caught:
        clock_of("profile", gpu="a100-80g", kv="fp8_e4m3")
    assert "measured over: bfloat16" in caught.value.hint


def test_a_cache_of_four_bits_runs_the_kernel_timed_with_one(
    document: dict[str, Any], tmp_path: Any, clock_of: Any
) -> None:
    for op in ("generation_attention", "context_attention"):
        part = part_of(document, op)
        narrow = {
            "low": part["low"] | {"kv_element_bytes": 0.5625},
            "high": part["high"] | {"kv_element_bytes": 0.5625},
        }
        document["kernels"].append(copied(part, labels={"kv_cache_dtype": "nvfp4"}, **narrow))
    path = tmp_path / "p.json"
    path.write_text(json.dumps(document))
    clock = clock_of("profile", gpu="a100-80g", name=str(path), kv="nvfp4")
    assert clock.model.tables.decode.at(8, 2048) > 0
    with pytest.raises(SpecError, match="nvfp4 attention with heads of 128"):
        clock_of("profile", gpu="a100-80g", kv="nvfp4")


def test_an_engine_runs_its_own_kernels_where_its_tables_have_them(document: dict[str, Any]) -> None:
    """Tables of several engines in one folder: another's faster kernel is not what this one launches."""
    own = part_of(document, "gemm")
    engine = own["measured_with"].partition(" ")[0].lower()
    faster = copied(own, labels={"kernel_source": "another", "gemm_dtype": "float16"})
    narrow = copied(own, labels={"kernel_source": "another", "gemm_dtype": "nvfp4"})
    document["kernels"] += [
        faster | {"measured_with": "TRTLLM 1.3.0rc20"}, narrow | {"measured_with": "TRTLLM 1.3.0rc20"},
    ]  # fmt: skip
    profile = ProfileFile.model_validate(document)
    form = weight_format("bf16")
    assert len(KernelSet(profile, "p.json", engine=engine).gemms(form)) == 1
    assert len(KernelSet(profile, "p.json", engine="trtllm").gemms(form)) == 1
    assert len(KernelSet(profile, "p.json", engine="sglang").gemms(form)) == 2
    assert len(KernelSet(profile, "p.json").gemms(form)) == 2
    assert len(KernelSet(profile, "p.json", engine=engine).gemms(weight_format("nvfp4"))) == 1


def test_ranks_sum_with_their_engines_kernel() -> None:
    profile = read_profile(profile_path("h100-sxm"))
    shapes = {"ranks": np.array([2.0]), "bytes": np.array([16384.0])}
    seconds = {}
    for engine in ("vllm", "sglang"):
        kernel = KernelSet(profile, "h100-sxm", engine=engine).all_reduce()
        assert kernel is not None
        seconds[engine] = float(kernel.seconds(shapes)[0])
    assert seconds["sglang"] < 0.8 * seconds["vllm"]
