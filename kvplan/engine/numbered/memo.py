"""Answers to look-ups of requests that wait, kept as long as nothing changes that they follow from.

Who does not fit, or is passed over, is looked up again with every step, and a look-up asks for every chunk of
its prompt. Hardly ever has one of these come or gone meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

from kvplan.engine.live import LiveRequest

AnswerT = TypeVar("AnswerT")

_MOST = 8
"""Requests whose answers are kept: those at the head of the queue."""


class _Memo(Generic[AnswerT]):
    __slots__ = ("answer", "holds", "keys", "question")

    def __init__(self, question: Hashable, answer: AnswerT) -> None:
        self.question = question
        self.answer = answer
        self.keys: Collection[Hashable] = ()
        self.holds = False


class Memos(Generic[AnswerT]):
    """At most one answer a request; whoever is asked about once is not worth one."""

    def __init__(self) -> None:
        self._of: dict[LiveRequest, _Memo[AnswerT]] = {}

    def recall(self, request: LiveRequest, question: Hashable) -> AnswerT | None:
        """The answer, if it still holds."""
        memo = self._of.get(request)
        if memo is None or not memo.holds or memo.question != question:
            return None
        return memo.answer

    def note(
        self,
        request: LiveRequest,
        question: Hashable,
        answer: AnswerT,
        keys: Callable[[], Collection[Hashable]],
    ) -> None:
        """An answer that holds until something changes about one of these keys.

        They are the same for the same question.
        """
        memo = self._of.get(request)
        if memo is None:
            self._of[request] = _Memo(question, answer)
            if len(self._of) > _MOST:
                del self._of[next(iter(self._of))]
            return
        if memo.question != question or not memo.keys:
            memo.question, memo.keys = question, keys()
        memo.answer = answer
        memo.holds = True

    def changed(self, key: Hashable) -> None:
        """What is known by this key came, went or is used in another way."""
        for memo in self._of.values():
            if memo.holds and key in memo.keys:
                memo.holds = False

    def forget(self, request: LiveRequest) -> None:
        """The request waits no more."""
        self._of.pop(request, None)
