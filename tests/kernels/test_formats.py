"""Formats: exact storage cost, shapes that are refused, and names. Needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kvplan.errors import UnknownName, UsageError
from kvplan.kernels import support
from kvplan.kernels.formats import get_format


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("bf16", 512),
        ("fp8_e4m3", 256),
        ("int8_per_token_head", 260),
        ("int4", 136),
        ("int4_g64", 144),
        ("int4_g32", 160),
        ("kivi4", 160),
        ("kivi2", 96),
        ("nvfp4", 144),
        ("mxfp4", 136),
        ("mla_bf16", 1152),
        ("mla_fp8", 656),
    ],
)
def test_bytes_of_one_token_of_one_head_of_128(name: str, bytes_per_token: int):
    assert get_format(name).bytes_per_token(1, 128) == bytes_per_token


def test_aliases_name_the_same_format():
    assert get_format("fp8") is get_format("fp8_e4m3")
    assert get_format("fp8_ds_mla") is get_format("mla_fp8")


def test_a_misspelt_format_gets_a_suggestion():
    with pytest.raises(UnknownName, match="did you mean"):
        get_format("int4_g46")


@pytest.mark.parametrize(
    ("name", "head_dim", "block_size", "says"),
    [
        ("bf16", 72, 16, "multiple of 16 from 32 to 256"),
        ("bf16", 512, 16, "multiple of 16 from 32 to 256"),
        ("bf16", 64, 24, "block_size must be a multiple of 16"),
        ("bf16", 64, 512, "from 16 to 256"),
        ("kivi2", 128, 16, "groups of 32 tokens"),
        ("int4_g64", 96, 16, "multiple of the group of 64"),
        ("int4_g32", 96, 16, "straddle"),
        ("kivi2", 80, 32, "multiple of 32"),
        ("kivi2", 32, 32, "at least 64 for 2-bit codes"),
    ],
)
def test_shapes_that_cannot_be_stored_say_why(name: str, head_dim: int, block_size: int, says: str):
    with pytest.raises(UsageError, match=says):
        get_format(name).require(head_dim, block_size)


def test_old_architectures_are_refused_with_a_reason():
    assert support.why_not(None) is None
    assert "8.0 or newer" in (support.why_not(75) or "")
    for capability in support.TESTED:
        assert support.why_not(capability) is None


def test_formats_import_neither_torch_nor_triton():
    code = "import sys, kvplan.kernels.formats, kvplan.kernels.doctor, kvplan.kernels.variants\n"
    code += "sys.exit(any(m in sys.modules for m in ('torch', 'triton', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
