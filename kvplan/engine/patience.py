"""How long clients wait, and who has waited for too long.

A client that gives up closes its connection, and the engine drops the request: nobody reads what it still
would say. Engines learn of it between two steps, so a request may be computed for a little longer than its
client waits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf
from typing import Generic, Protocol, TypeVar

from kvplan.traces.request import Request


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds from a request's arrival at the engine; infinite: for ever.

    Attributes:
        answer_s: until its last token.
        first_token_s: until its first token.
    """

    answer_s: float = inf
    first_token_s: float = inf


class Awaited(Protocol):
    """A request inside an engine; ``first_token_s`` is negative before there is one."""

    request: Request
    first_token_s: float


AwaitedT = TypeVar("AwaitedT", bound=Awaited)


class Deadlines(Generic[AwaitedT]):
    """Until when the clients of an engine's requests wait; requests are watched in order of arrival.

    What comes just at its deadline is in time.
    """

    __slots__ = ("_answers", "_first_tokens", "_open", "patience")

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self._open: dict[AwaitedT, None] = {}
        self._answers: deque[tuple[float, AwaitedT]] = deque()
        self._first_tokens: deque[tuple[float, AwaitedT]] = deque()

    def watch(self, request: AwaitedT) -> None:
        """A client begins to wait."""
        self._open[request] = None
        arrival_s, patience = request.request.arrival_s, self.patience
        if patience.answer_s < inf:
            self._answers.append((arrival_s + patience.answer_s, request))
        if patience.first_token_s < inf:
            self._first_tokens.append((arrival_s + patience.first_token_s, request))

    def answered(self, request: AwaitedT, time_s: float) -> float | None:
        """Its last token has come; returns when its client had given up, None where that was in time."""
        if request not in self._open:
            return None
        del self._open[request]
        deadline_s = self._deadline(request)
        return deadline_s if deadline_s < time_s else None

    def forget(self, request: AwaitedT) -> None:
        """A request was turned away: nobody waits for it any more."""
        self._open.pop(request, None)

    def passed(self, now: float) -> list[tuple[float, AwaitedT]]:
        """Who gave up before ``now``, and when, in the order in which it happened; they are forgotten."""
        found: list[tuple[float, AwaitedT]] = []
        while (deadline_s := self.next_s) < now:
            first_tokens = self._first_tokens
            earlier = first_tokens if first_tokens and first_tokens[0][0] == deadline_s else self._answers
            _, request = earlier.popleft()
            del self._open[request]
            found.append((deadline_s, request))
        return found

    @property
    def next_s(self) -> float:
        """When the next client gives up, for all that is known now; infinite if none does."""
        answers, first_tokens, waiting = self._answers, self._first_tokens, self._open
        while answers and answers[0][1] not in waiting:
            answers.popleft()
        while first_tokens and (first_tokens[0][1] not in waiting or self._has_begun(first_tokens[0][1])):
            first_tokens.popleft()
        return min((queue[0][0] for queue in (first_tokens, answers) if queue), default=inf)

    def _has_begun(self, request: AwaitedT) -> bool:
        """Whether its first token came in time."""
        return 0.0 <= request.first_token_s <= request.request.arrival_s + self.patience.first_token_s

    def _deadline(self, request: AwaitedT) -> float:
        arrival_s, patience = request.request.arrival_s, self.patience
        deadline_s = arrival_s + patience.answer_s
        if not self._has_begun(request):
            deadline_s = min(deadline_s, arrival_s + patience.first_token_s)
        return deadline_s
