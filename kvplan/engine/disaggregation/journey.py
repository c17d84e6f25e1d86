"""One request on its way through both pools."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from kvplan.engine.disaggregation.cargo import NOTHING
from kvplan.traces.request import Request, TokenRuns

if TYPE_CHECKING:
    from kvplan.engine.live import LiveRequest

UNSET = -1.0


class FirstToken(Enum):
    """Which first token the client sees.

    ``DECODE``: the prefill instance's token is thrown away and the decode instance samples it again from the
    last prompt token (vLLM). ``PREFILL``: the prefill instance's token goes to the client and, with the
    cache, to the decode instance, which goes on with the second (DistServe, Mooncake, SGLang).
    """

    DECODE = "decode"
    PREFILL = "prefill"


class Ready(NamedTuple):
    """The KV of a prompt that waits to be sent.

    Attributes:
        first_s, last_s: when the first and the last of its ``pieces`` were there.
    """

    first_s: float
    last_s: float
    pieces: int


class Journey:
    """What happened to one request; times are ``UNSET`` until they are known.

    Attributes:
        sent_tokens: of the prompt, those that are sent: not the last few that are left to the decode
            instance.
        prefill, decode: the instances; ``decode`` is -1 as long as none was chosen.
        prefill_rank, decode_rank: which of their ranks, where they have some.
        attempt: rises when the prefill instance preempts it: what it had computed is gone.
        ready: what is computed and not yet sent.
        cargo: what is sent of it, once blocks are reserved.
        refused: the decode instance had no blocks for it when it came.
        held, offered: the request as the two instances know it: finished with its blocks, and waiting.
        lost: the prefill instance gave its blocks away before they could be sent: nothing is moved, and the
            decode instance computes the prompt again.
        scheduled_s, prefilled_s, reserved_s, arrived_s, first_token_s: admitted by the prefill instance,
            prompt computed, blocks reserved by the decode instance, cache there, first token at the client.
    """

    __slots__ = (
        "arrived_s", "attempt", "cached_tokens", "cargo", "decode", "decode_rank", "first_token_s", "held",
        "lost", "offered", "preemptions", "prefill", "prefill_rank", "prefilled_s", "ready", "refused",
        "request", "reserved_s", "scheduled_s", "sent_tokens",
    )  # fmt: skip

    def __init__(self, request: Request, prefill: int, left: int = 0) -> None:
        self.request = request
        self.sent_tokens = request.prompt_tokens - (left if request.prompt_tokens > left else 0)
        self.prefill = prefill
        self.decode = -1
        self.prefill_rank = self.decode_rank = 0
        self.attempt = 0
        self.ready: Ready | None = None
        self.cargo = NOTHING
        self.lost = self.refused = False
        self.held: LiveRequest | None = None
        self.offered: LiveRequest | None = None
        self.cached_tokens = self.preemptions = 0
        self.scheduled_s = self.prefilled_s = self.reserved_s = self.arrived_s = self.first_token_s = UNSET

    def marks(self, decoded_s: float) -> tuple[float, ...]:
        """When each part of the way to the first token ended, its arrival first, and that token last."""
        return (
            self.request.arrival_s, self.scheduled_s, self.prefilled_s, self.arrived_s, decoded_s,
        )  # fmt: skip

    @property
    def room_s(self) -> float:
        """How long it waited, computed, for blocks of the decode instance."""
        return max(0.0, self.reserved_s - self.prefilled_s)

    def before(self) -> StageRequest:
        """What the prefill instance is asked for: what it is to send of the prompt, and one token."""
        it, sent = self.request, self.sent_tokens
        prompt, output = _cut(it.prompt, sent)[0], _cut(it.output, 1)[0]
        return self._stage(it._replace(prompt=prompt, prompt_tokens=sent, output=output, output_tokens=1))

    def after(self, now: float, first_token: FirstToken) -> StageRequest:
        """What the decode instance is asked for, from ``now`` on."""
        it = self.request
        prompt, known, output, left = it.prompt, it.prompt_tokens, it.output, it.output_tokens
        if first_token is FirstToken.PREFILL:
            first, output = _cut(output, 1)
            prompt, known, left = (*prompt, *first), known + 1, left - 1
        return self._stage(Request(it.id, now, prompt, known, output, left, it.priority, it.session))

    def _stage(self, request: Request) -> StageRequest:
        stage = StageRequest(*request)
        stage.journey = self
        return stage


class StageRequest(Request):
    """A request as one of the two instances sees it."""

    journey: Journey


def journey_of(live: LiveRequest) -> Journey:
    """The journey a request of an instance belongs to."""
    facts = live.request
    assert isinstance(facts, StageRequest)
    return facts.journey


def _cut(runs: TokenRuns, tokens: int) -> tuple[TokenRuns, TokenRuns]:
    """The first ``tokens`` tokens, and the rest."""
    head: list[tuple[int, int]] = []
    for number, (start, length) in enumerate(runs):
        if length > tokens:
            if tokens:
                head.append((start, tokens))
            return tuple(head), ((start + tokens, length - tokens), *runs[number + 1 :])
        head.append((start, length))
        tokens -= length
    return tuple(head), ()
