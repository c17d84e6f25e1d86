"""What a way of drafting asks of an engine's scheduler and cache: the numbers of vLLM and of SGLang."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from kvplan.errors import UsageError
from kvplan.sizing.ahead import can_plan_ahead

Method: TypeAlias = Literal["mtp", "eagle", "draft_model", "ngram"]
"""By the model's own layers, by layers trained for it, by another model, or by looking the prompt up."""

RUNNER_V2: dict[Method, tuple[int, int, int]] = {
    "mtp": (0, 29, 0),
    "eagle": (0, 29, 0),
    "draft_model": (0, 31, 0),
}
"""vLLM's second model runner is the default from here on (0.25 to 0.28 have it for some architectures), later
for models that draft for others. Looking the prompt up takes no time, before outputs or after."""

SEVERAL_MODULES = (0, 28, 0)
"""vLLM from here on makes each draft with a prediction layer of its own where a model has several."""

LOOKAHEAD_HASHES = (0, 33, 0)
"""vLLM from here on knows a block of ``mtp`` and ``eagle`` by the token behind it, too; before, it did not
use the last block of a hit."""

SGLANG_SEEN = (0, 5, 23)
"""The version of SGLang whose rules these are."""


@dataclass(frozen=True, slots=True)
class DraftRules:
    """Numbers of ``SpeculativeConfig`` and ``VllmConfig``, and what they are in SGLang.

    Attributes:
        tokens: drafts of a step. lookahead: tokens beyond those of a step that need a place in the cache
            (``num_lookahead_tokens``).
        hash_lookahead: tokens behind a block that its hash covers; drops_block: the last block of a hit is
            computed again.
        slots: rows of a step that a request takes beside its tokens (``max_num_new_slots_for_drafting``).
        prompt_lookahead: known tokens behind those of a step that drafts are made from: a prompt is not cut
            closer to its end (``num_prefill_lookahead_tokens``), and what is computed may change that close
            to it.
        ahead: whether steps can be scheduled before the one in flight is done; otherwise they are not.
        outputs_first: a step's outputs leave before drafts are made, and none are made that no step could
            verify: what the second model runner does.
    """

    tokens: int
    lookahead: int = 0
    hash_lookahead: int = 0
    drops_block: bool = False
    slots: int = 0
    prompt_lookahead: int = 1
    ahead: bool = True
    outputs_first: bool = True

    @property
    def room(self) -> int:
        """Places beyond its known tokens that vLLM counts for a request before KV is loaded for it."""
        return 1 + self.tokens + self.lookahead

    def with_connector(self) -> DraftRules:
        """The same beside a KV connector, which knows blocks by their own tokens only.

        vLLM keeps its older hashes then, and computes the last block of a hit again.
        """
        return replace(self, hash_lookahead=0, drops_block=self.drops_block or self.hash_lookahead > 0)


def rules_of(method: Method, tokens: int, version: tuple[int, int, int], *, modules: int = 1) -> DraftRules:
    """The rules of a method in a version of vLLM.

    Args:
        modules: prediction layers of the model that drafts for itself; each reads one token further ahead.

    Raises:
        UsageError: several of them, before vLLM ran them in turns.
    """
    if method == "ngram":
        return DraftRules(tokens, ahead=can_plan_ahead(version, lookup=True), outputs_first=False)
    second = version >= RUNNER_V2[method]
    if method == "draft_model":
        beside = can_plan_ahead(version, draft_model=True)
        return DraftRules(tokens, lookahead=tokens, slots=1, ahead=beside, outputs_first=second)
    several = method == "mtp" and min(modules, tokens) > 1
    if several and version < SEVERAL_MODULES:
        raise UsageError(
            f"{modules} prediction layers that draft in turns are simulated from vLLM 0.28 on",
            where="speculative.tokens",
            hint="use 1, or engine.version 0.28 or later",
        )
    ahead = tokens if several else 1
    hashes = ahead if version >= LOOKAHEAD_HASHES else 0
    return DraftRules(
        tokens, lookahead=tokens, hash_lookahead=hashes, drops_block=not hashes, prompt_lookahead=ahead,
        outputs_first=second,
    )  # fmt: skip


def sglang_rules_of(method: Method, tokens: int) -> DraftRules:
    """The rules of a method in SGLang, one draft behind the other (``--speculative-eagle-topk 1``).

    Places are given for two steps, as the one in flight may use up those of the first. EAGLE's radix cache
    knows a token by the one behind it, too.

    Raises:
        UsageError: drafts come from the prompt, which SGLang schedules as trees.
    """
    if method == "ngram":
        raise UsageError(
            "drafts looked up in the prompt are simulated on vLLM's scheduler only: SGLang verifies trees "
            "of them",
            where="speculative.method",
            hint="use mtp, eagle or draft_model, or engine.kind vllm",
        )
    return DraftRules(tokens, lookahead=1 + tokens, hash_lookahead=int(method != "draft_model"))
