"""Token content by runs against the same content token by token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvplan.engine.content import Content
from kvplan.traces.request import TokenRuns, iterate_tokens, join_runs

RUNS = st.lists(st.tuples(st.sampled_from([0, 3, 100, 104]), st.integers(1, 6)), min_size=1, max_size=6).map(
    join_runs
)


@given(RUNS, RUNS)
def test_agreement_is_the_common_prefix(a: TokenRuns, b: TokenRuns) -> None:
    left, right = list(iterate_tokens(a)), list(iterate_tokens(b))
    stop = min(len(left), len(right))
    expected = next((i for i in range(stop) if left[i] != right[i]), stop)
    assert Content(a, ()).agrees_until(Content(b, ()), 0, stop) == expected


@given(RUNS, RUNS, st.integers(1, 4))
def test_equal_block_keys_mean_equal_blocks(a: TokenRuns, b: TokenRuns, size: int) -> None:
    left, right = list(iterate_tokens(a)), list(iterate_tokens(b))
    for start in range(min(len(left), len(right)) - size + 1):
        same = left[start : start + size] == right[start : start + size]
        assert (Content(a, ()).block_key(start, size) == Content(b, ()).block_key(start, size)) == same


@given(RUNS, RUNS)
def test_where_prompt_ends_and_output_begins_does_not_matter(a: TokenRuns, b: TokenRuns) -> None:
    split, whole = Content(a, b), Content(join_runs((*a, *b)), ())
    assert (split.ends, split.shifts) == (whole.ends, whole.shifts)
