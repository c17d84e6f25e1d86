"""Budgets of tokens and of prompts: what is kept, what grows, what is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest

from kvplan.errors import UsageError
from kvplan.sizing.retention import parse_retention


def test_a_heavy_hitter_budget_in_tokens_is_half_recent() -> None:
    kept = parse_retention("h2o:1k")
    assert (kept.name, kept.sink, kept.recent, kept.growth) == ("h2o:1024", 512, 512, 0)
    assert [kept.context_kept(tokens) for tokens in (100, 1024, 10**6)] == [100, 1024, 1024]
    assert parse_retention("h2o:3").recent == 2


def test_one_is_everything() -> None:
    assert parse_retention("h2o:1").budget == 1
    assert parse_retention("h2o:1").context_kept(777) == 777


def test_a_compressed_prompt_keeps_its_observation_window() -> None:
    kept = parse_retention("snapkv:0.25")
    assert kept.growth == Fraction(1, 4)
    assert [kept.context_kept(tokens) for tokens in (10, 32, 100, 1001)] == [10, 32, 32, 251]


@pytest.mark.parametrize("text", ["h2o:1.5", "h2o:-1", "h2o:0", "snapkv:2", "snapkv:1k", "snapkv:0"])
def test_budgets_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        parse_retention(text)


@pytest.mark.parametrize("text", ["h2o:", "snapkv:half"])
def test_a_budget_is_a_number(text: str) -> None:
    with pytest.raises(UsageError, match="needs a budget"):
        parse_retention(text)
