"""The bundled workloads: what their requests are made of, with the reasons for the figures.

They are models, not recordings: their lengths are of the order that published traces of the same kind of
traffic have, and every figure can be seen here and overridden. Token counts are lognormal (median, sigma,
lowest, highest), the usual fit for text lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvplan.errors import UnknownName
from kvplan.traces.lengths import Constant, Lengths, Lognormal
from kvplan.traces.prefixes import SharedTexts


@dataclass(frozen=True, slots=True)
class Turns:
    """Conversations of several turns.

    A later prompt is the earlier prompt, its answer and a new text, token by token. The number of turns is
    geometric with mean ``mean`` before the cut at ``most``. The next turn arrives once the answer could
    have been read: ``answer tokens / tokens_per_s`` plus the think time after the turn before (open loop:
    a slower server does not delay it). A conversation that would outgrow ``max_context`` is compacted: it
    goes on from a summary of ``summary_tokens`` new tokens.
    """

    mean: float
    most: int
    follow_up: Lengths
    think_ms: Lengths
    tokens_per_s: float
    max_context: int
    summary_tokens: int

    def mean_turns(self) -> float:
        """Expected turns: sum over k < most of (1 - 1/mean)**k."""
        going_on = 1.0 - 1.0 / self.mean
        return (1.0 - going_on**self.most) * self.mean


@dataclass(frozen=True, slots=True)
class Workload:
    """What the requests of a workload are made of; see the module's docstring for the units.

    Attributes:
        system: system prompts shared by groups of requests; ``None`` for none.
        documents: passages put before the question, shared by the requests that retrieve them.
        documents_per_prompt: how many.
        question: new text of a first prompt, in tokens.
        answer: answer, in tokens.
        turns: ``None`` for single requests.
    """

    name: str
    summary: str
    question: Lengths
    answer: Lengths
    system: SharedTexts | None = None
    documents: SharedTexts | None = None
    documents_per_prompt: int = 0
    turns: Turns | None = None


CHAT = Workload(
    name="chat",
    summary="people talking to assistants: short turns, growing conversations, some shared system prompts",
    system=SharedTexts(count=20, tokens=Lognormal(350, 0.8, 40, 3_000), zipf=1.0),
    question=Lognormal(90, 1.2, 4, 8_000),
    answer=Lognormal(190, 0.85, 4, 2_048),
    turns=Turns(
        mean=4.0,
        most=40,
        follow_up=Lognormal(60, 1.2, 2, 8_000),
        think_ms=Lognormal(25_000, 0.9, 1_000, 600_000),
        tokens_per_s=40.0,
        max_context=32_768,
        summary_tokens=600,
    ),
)

RAG = Workload(
    name="rag",
    summary="questions over retrieved passages: long prompts, short answers, popular passages shared",
    system=SharedTexts(count=3, tokens=Lognormal(500, 0.3, 200, 1_500), zipf=1.0),
    documents=SharedTexts(count=2_000, tokens=Lognormal(700, 0.4, 128, 2_000), zipf=0.9),
    documents_per_prompt=5,
    question=Lognormal(45, 0.7, 5, 500),
    answer=Lognormal(160, 0.7, 8, 1_024),
)

AGENTIC = Workload(
    name="agentic",
    summary="coding agents: large tool prompts, many quick turns on a context that grows to its limit",
    system=SharedTexts(count=6, tokens=Lognormal(11_000, 0.35, 4_000, 25_000), zipf=1.0),
    question=Lognormal(900, 1.0, 30, 20_000),
    answer=Lognormal(140, 1.0, 8, 4_096),
    turns=Turns(
        mean=18.0,
        most=120,
        follow_up=Lognormal(450, 1.4, 20, 20_000),
        think_ms=Lognormal(2_500, 1.4, 100, 600_000),
        tokens_per_s=60.0,
        max_context=120_000,
        summary_tokens=2_500,
    ),
)

FIXED = Workload(
    name="fixed",
    summary="every request alike: 1,024 tokens in, 256 out, nothing shared",
    question=Constant(1_024),
    answer=Constant(256),
)

WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in (CHAT, RAG, AGENTIC, FIXED)}


def workload(name: str) -> Workload:
    """The bundled workload called ``name``.

    Raises:
        UnknownName: there is none; suggests near ones.
    """
    if name not in WORKLOADS:
        raise UnknownName("workload", name, WORKLOADS)
    return WORKLOADS[name]
