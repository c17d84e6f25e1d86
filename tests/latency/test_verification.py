"""What several tokens of a request take together: from a profile that timed some, and from one that timed none."""

from __future__ import annotations

import pytest

from kvplan.latency.attention_work import Attention
from kvplan.latency.fit.measured_part import VerifyPart
from kvplan.latency.fit.profile_file import ProfileFile, read_profile
from kvplan.latency.kernel_set import KernelSet
from kvplan.latency.verification import NAME, verification

TIMED = VerifyPart(factors={"2": 1.1, "4": 1.21}, deviation=0.05)
OTHER = VerifyPart(factors={"4": 1.3}, deviation=0.2)


def layer(rows: int, kv: str = "bf16") -> Attention:
    return Attention(32, "gqa", 32, 8, 128, 4096.0, 2.0, None, 1, 1.0, 1.0, kv, decode_rows=rows)


def test_one_token_is_what_the_kernel_was_fitted_to() -> None:
    for own in (TIMED, None):
        found = verification(1, own, [OTHER])
        assert (found.factor, found.deviation, found.assumption) == (1.0, 0.0, None)


def test_between_numbers_of_tokens_that_were_timed_lies_what_they_took() -> None:
    two, three, four = (verification(tokens, TIMED, [OTHER]) for tokens in (2, 3, 4))
    assert (two.factor, four.factor) == pytest.approx((1.1, 1.21))
    assert two.factor < three.factor < four.factor
    assert {item.deviation for item in (two, three, four)} == {0.05}
    assert [item.assumption for item in (two, three, four)] == [None] * 3
    assert three.measured


def test_more_tokens_than_were_timed_are_said_to_be() -> None:
    found = verification(6, TIMED, [])
    assert found.factor == pytest.approx(1.21)
    assert found.assumption is not None
    assert found.assumption.name == NAME
    assert "most tokens that were" in found.assumption.source


def test_another_format_stands_in_and_nothing_is_said_to_be_nothing() -> None:
    found = verification(4, None, [OTHER])
    assert found.factor == pytest.approx(1.3)
    assert found.deviation == 0.2
    assert not found.measured
    assert found.assumption is not None
    assert "other cache formats" in found.assumption.source
    none = verification(4, None, [])
    assert none.factor == 1.0
    assert none.assumption is not None
    assert "not measured" in none.assumption.source


def without(profile: ProfileFile) -> ProfileFile:
    """As fitted to a file without such calls."""
    parts = [
        part if part.detail is None
        else part.model_copy(update={"detail": part.detail.model_copy(update={"verify": None})})
        for part in profile.kernels
    ]  # fmt: skip
    return profile.model_copy(update={"kernels": parts})


def test_a_profile_says_whether_it_timed_them(own_profile) -> None:
    profile = read_profile(own_profile)
    timed, plain = KernelSet(profile, "p"), KernelSet(without(profile), "p")
    assert timed.verification(layer(4)).measured
    assert not [item for item in timed.assumptions() if item.name == NAME]
    assert timed.verification(layer(4, "kivi2")).factor > 1.0
    assert [item.name for item in timed.assumptions()].count(NAME) == 1
    assert plain.verification(layer(1)).assumption is None
    assert not plain.assumptions()
    assert plain.verification(layer(4)).factor == 1.0
    assert [item.value for item in plain.assumptions() if item.name == NAME] == [4]
