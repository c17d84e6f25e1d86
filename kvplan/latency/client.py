"""What a client waits for beside the engine: the request's way in and the first token's way out.

A client's time to first token holds some milliseconds that no engine step explains: HTTP, tokenizing the
prompt, queues between processes, detokenizing. Part of it goes on side by side for all requests. It is added
to the reported TTFT and end-to-end time, once a request, and to the time after which a client that waits for
answers sends again: the engine knows nothing of it. Of a request, in seconds::

    client_overhead_s * exp(client_spread * z) + client_stall_s * (1 - u / client_stall_share)

with ``z`` standard normal, never beyond 3, and ``u`` between 0 and 1, which follow from the request's name
and the scenario's seed alone. The second term counts only where it is positive: something holds up for
``client_stall_s`` whoever comes meanwhile, and each waits for what is left of it. The other part is one
thread's work, so that requests that are sent together wait for one another before they reach the engine
(``kvplan.engine.api_server``); each takes it::

    api_server_s + client_token_s * prompt_tokens

The same thread hands tokens out (``kvplan.engine.streaming``), where that is given: ``api_server_output_s``
for every output of a step, ``api_server_chunk_s`` for every chunk that a client is sent; the former is
``OUTPUT_SHARE`` of the latter unless given, too. All but the first constant are 0 unless given or fitted.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from kvplan.errors import SpecError, UnknownName
from kvplan.latency.assumption import Assumption

LOW_S, HIGH_S = 7e-3, 35e-3
"""Range seen between a client's TTFT and the engine's, on serving runs of several engines and models."""
DEFAULT_S = 15e-3
"""The middle of the range in ratio, to the millisecond."""
KEY = "client_overhead_s"
TOKEN, SPREAD, SERVER = "client_token_s", "client_spread", "api_server_s"
STALL, STALL_SHARE = "client_stall_s", "client_stall_share"
OUTPUT, CHUNK = "api_server_output_s", "api_server_chunk_s"
OUTPUT_SHARE = 0.25
"""Work on an output over work on a chunk (assumed): detokenizing and statistics, over JSON and a write."""
MAX_S = 60.0
LIMITS = {KEY: MAX_S, SERVER: 1.0, TOKEN: 1e-2, SPREAD: 2.0, STALL: MAX_S, STALL_SHARE: 1.0,
          OUTPUT: 1e-2, CHUNK: 1e-2}  # fmt: skip
"""The largest value of each parameter; the least is 0."""
_WHY = {
    SERVER: "for every request, one after the other, before it reaches the engine: HTTP and chat template",
    TOKEN: "for every prompt token, cached or not, one request after the other: tokenizing",
    SPREAD: "of the logarithm of the client's overhead, from request to request",
    STALL: "at most, for requests that come while something holds them up before their first token",
    STALL_SHARE: "of the requests come then",
    OUTPUT: "for every output of a step, on the thread that takes requests in: detokenizing",
    CHUNK: "for every chunk streamed, on the same thread; what a stream is behind goes in one: JSON, writing",
}
_FARTHEST = 3.0


@dataclass(frozen=True, slots=True)
class ClientOverhead:
    """See the module.

    Attributes:
        seconds: a request, in the median.
        low_s, high_s: where that lies nine times in ten.
        given: whether the scenario says it.
        server_s, token_s: of the front end's thread, a request and a prompt token.
        servers: front ends side by side.
        spread: standard deviation of the logarithm of ``seconds`` from request to request.
        stall_s, stall_share: the longest stall, and the share of requests that one holds up.
        output_s, chunk_s: of the front end's thread, an output of a step and a chunk streamed.
        output_given: whether the scenario says the former.
        seed: what is drawn follows from this and a request's name.
    """

    seconds: float = 0.0
    low_s: float = 0.0
    high_s: float = 0.0
    given: bool = True
    server_s: float = 0.0
    token_s: float = 0.0
    servers: int = 1
    spread: float = 0.0
    seed: str = ""
    stall_s: float = 0.0
    stall_share: float = 0.0
    output_s: float = 0.0
    chunk_s: float = 0.0
    output_given: bool = True

    @property
    def streams(self) -> bool:
        """Whether tokens wait for one another, and for requests, on their way to clients."""
        return bool(self.output_s or self.chunk_s)

    @property
    def varies(self) -> bool:
        """Whether it is not the same for every request."""
        return bool((self.spread and self.seconds) or (self.stall_s and self.stall_share))

    @property
    def queues(self) -> bool:
        """Whether requests that are sent together wait for one another before the engine."""
        return bool(self.server_s or self.token_s)

    @property
    def least_s(self) -> float:
        """No request's overhead is less."""
        return self.seconds * math.exp(-_FARTHEST * self.spread)

    def of(self, request_id: str) -> float:
        """Seconds of one request that go on beside those of others."""
        own_s = (
            self.seconds * math.exp(self.spread * drawn(self.seed, request_id))
            if self.spread
            else self.seconds
        )
        return own_s + self.stalled_s(request_id)

    def stalled_s(self, request_id: str) -> float:
        """Of them those in a stall."""
        if not self.stall_s or not self.stall_share:
            return 0.0
        return self.held_s(moment(self.seed, request_id))

    def held_s(self, moment: float) -> float:
        """Seconds in a stall of one of the requests whose moments are evenly from 0 to 1."""
        return self.stall_s * max(1.0 - moment / self.stall_share, 0.0)

    def service_s(self, prompt_tokens: int) -> float:
        """Seconds of the front end's thread."""
        return self.server_s + self.token_s * prompt_tokens

    def at(self, share: float) -> float:
        """The overhead at a share from 0 to 1 of the range, even in ratio: for members of an ensemble."""
        if self.high_s <= self.low_s:
            return self.seconds
        return float(self.low_s * (self.high_s / self.low_s) ** share)

    def member(self, share: float, number: int) -> ClientOverhead:
        """That of member ``number`` of an ensemble, whose requests draw anew.

        A run has few stalls, and another one has others: none, or twice as long ones.
        """
        return replace(
            self, seconds=self.at(share), stall_s=2.0 * share * self.stall_s, seed=f"{self.seed}/{number}"
        )

    def assumptions(self) -> tuple[Assumption, ...]:
        """How it is printed; what is 0 unless given is left out then."""
        why = "added to TTFT and E2E as a client sees them: HTTP, tokenizing, detokenizing"
        source = (
            "given in the scenario" if self.given
            else f"{1e3 * LOW_S:g} to {1e3 * HIGH_S:g} ms on serving runs, 0 gives the engine's own times"
        )  # fmt: skip
        found = [Assumption(f"latency.{KEY}", self.seconds, f"{why}; {source}")]
        stalls = ((STALL, self.stall_s), (STALL_SHARE, self.stall_share)) if self.stall_s else ()
        others = ((SERVER, self.server_s), (TOKEN, self.token_s), (SPREAD, self.spread), *stalls)
        for name, value in (*others, (CHUNK, self.chunk_s), (OUTPUT, self.output_s)):
            if value:
                assumed = name == OUTPUT and not self.output_given
                given = f"{OUTPUT_SHARE:g} of {CHUNK} (assumed)" if assumed else "given in the scenario"
                found.append(Assumption(f"latency.{name}", value, f"{_WHY[name]}; {given}"))
        return tuple(found)


NO_OVERHEAD = ClientOverhead()


@lru_cache(maxsize=1 << 16)
def drawn(seed: str, request_id: str) -> float:
    """The standard normal number of a request, within 3."""
    normal = random.Random(f"client/{seed}/{request_id}").gauss(0.0, 1.0)
    return max(min(normal, _FARTHEST), -_FARTHEST)


def moment(seed: str, request_id: str) -> float:
    """The number from 0 to 1 that says whether a request comes during a stall, and when."""
    return random.Random(f"stall/{seed}/{request_id}").random()


def client_overhead(parameters: Mapping[str, Any]) -> tuple[ClientOverhead, dict[str, Any]]:
    """The overhead a ``latency`` section asks for, and the other parameters.

    Raises:
        SpecError: a constant is no number from 0 to its limit. UnknownName: a client has no such constant.
    """
    for name in parameters:
        if name.startswith(("client", "api_server")) and name not in LIMITS:
            raise UnknownName("latency parameter", name, tuple(LIMITS), where=f"latency.{name}")
    rest = dict(parameters)
    found = {name: _checked(name, rest.pop(name)) for name in LIMITS if name in rest}
    given, seconds = KEY in found, found.get(KEY, DEFAULT_S)
    low_s, high_s = (seconds, seconds) if given else (LOW_S, HIGH_S)
    server_s, token_s = found.get(SERVER, 0.0), found.get(TOKEN, 0.0)
    return ClientOverhead(
        seconds, low_s, high_s, given, server_s, token_s, spread=found.get(SPREAD, 0.0),
        stall_s=found.get(STALL, 0.0), stall_share=found.get(STALL_SHARE, 0.0),
        output_s=found.get(OUTPUT, OUTPUT_SHARE * found.get(CHUNK, 0.0)), chunk_s=found.get(CHUNK, 0.0),
        output_given=OUTPUT in found,
    ), rest  # fmt: skip


def _checked(name: str, value: object) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if good and isinstance(value, (int, float)) and 0 <= value <= LIMITS[name]:
        return float(value)
    unit = " of seconds" if name.endswith("_s") else ""
    raise SpecError(
        f"{name} must be a number{unit} from 0 to {LIMITS[name]:g}, not {value!r}",
        where=f"latency.{name}",
        hint="0 leaves it out: times as the engine's own metrics have them",
    )
