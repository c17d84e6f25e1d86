"""Several modules that draft in turns: what blocks are known by, where prompts are cut, what vLLM refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.engine.config import CacheGroup, EngineConfig
from kvplan.engine.recorder import Recorder
from kvplan.engine.speculation.acceptance import geometric
from kvplan.engine.speculation.drafting import Drafting
from kvplan.engine.speculation.paired import Pairs
from kvplan.engine.speculation.rules import rules_of
from kvplan.engine.speculation.strategy import Speculation
from kvplan.errors import UsageError
from kvplan.latency.linear import LinearLatency
from kvplan.traces.request import Request, count_tokens

RUNS = st.lists(st.tuples(st.sampled_from((0, 3, 7, 100)), st.integers(1, 6)), min_size=1, max_size=5)
CLOCK = LinearLatency(1e-3, 1e-5, 0.0)


def of(runs: list[tuple[int, int]]) -> Request:
    """A prompt, and one token more."""
    prompt = tuple(runs)
    return Request("r", 0.0, prompt, count_tokens(prompt), ((999, 1),), 1)


def tokens(runs: list[tuple[int, int]]) -> list[int]:
    return [first + step for first, length in runs for step in range(length)] + [999]


@given(mine=RUNS, theirs=RUNS, ahead=st.integers(1, 5))
def test_contents_agree_where_a_token_and_those_behind_it_do(
    mine: list[tuple[int, int]], theirs: list[tuple[int, int]], ahead: int
) -> None:
    pairs = Pairs(ahead)
    first, second = pairs.content(of(mine)), pairs.content(of(theirs))
    lists = tokens(mine), tokens(theirs)
    shared = min(map(len, lists)) - ahead
    if shared <= 0:
        return
    equal = 0
    while equal < shared and lists[0][equal : equal + ahead + 1] == lists[1][equal : equal + ahead + 1]:
        equal += 1
    assert first.agrees_until(second, 0, shared) == equal
    for content, listed in ((first, lists[0]), (second, lists[1])):
        assert content.ends[-1] == len(listed) - ahead
        assert content.ends == sorted(set(content.ends))


def prompt(name: str, length: int) -> Request:
    """Unlike every other one."""
    return Request(name, 0.0, ((1000 * ord(name), length),), length, ((10**7 + 1000 * ord(name), 4),), 4)


def engine(tokens_a_step: int, drafts: int, *groups: CacheGroup, block: int = 8) -> Drafting:
    rules = rules_of("mtp", drafts, (0, 33, 0), modules=3)
    config = EngineConfig(
        num_blocks=100, block_size=block, max_model_len=200, max_num_batched_tokens=tokens_a_step,
        groups=groups, enable_prefix_caching=True,
    )  # fmt: skip
    made = Speculation(rules, geometric(0.5, drafts, 1)).engine(config, CLOCK, Recorder())
    return made.scheduler  # type: ignore[attr-defined, no-any-return]


def test_no_chunk_ends_close_to_the_end_of_a_prompt() -> None:
    """Whose first drafts would be made from drafts."""
    scheduler = engine(20, 3)
    scheduler.add(scheduler.live(prompt("a", 22)))
    assert scheduler.schedule().shares[0][1] == 19, "three tokens are left, not two"


def test_who_would_get_nothing_lets_others_pass() -> None:
    scheduler = engine(20, 3)
    for name, length in (("a", 18), ("b", 3), ("c", 2)):
        scheduler.add(scheduler.live(prompt(name, length)))
    plan = scheduler.schedule()
    assert [(share[0].request.id, share[1]) for share in plan.shares] == [("a", 18), ("c", 2)]
    assert [item.request.id for item in scheduler.aside] == ["b"]


@pytest.mark.parametrize(
    ("groups", "block", "words"),
    [
        ((CacheGroup("full", 8), CacheGroup("mamba", 8)), 8, "recurrent states"),
        ((CacheGroup("full", 8), CacheGroup("chunked", 8, 16)), 8, "local chunks"),
        ((), 2, "blocks of as many tokens"),
    ],
)
def test_what_modules_do_not_go_with(groups: tuple[CacheGroup, ...], block: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        engine(64, 3, *groups, block=block)


def test_old_engines_run_one_module() -> None:
    assert rules_of("mtp", 1, (0, 20, 0), modules=3).prompt_lookahead == 1
    with pytest.raises(UsageError, match=r"0\.28"):
        rules_of("mtp", 2, (0, 27, 0), modules=3)
    assert rules_of("mtp", 2, (0, 28, 0), modules=3).drops_block
    assert rules_of("eagle", 3, (0, 33, 0), modules=3).prompt_lookahead == 1
