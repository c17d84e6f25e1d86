"""Drawing requests from a workload: lazily, the same for the same seed, in the order of arrival.

Every feature draws from streams of its own, and everything about a conversation is drawn when it starts,
in the order of the starts; so changing think times, say, moves no arrival of a first turn and no length.

The process is stationary from time 0: conversations that would have begun before are under way, and only
their turns from 0 on are requests. That way ``rate`` is the rate of the whole trace, not of its end. Without
a rate nothing but the clients' own limits says when conversations begin (``kvplan.engine.clients``).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice, repeat

from kvplan.errors import UsageError
from kvplan.traces.arrivals import LEAST_RATE, ArrivalProcess
from kvplan.traces.lengths import Lengths, parse_lengths
from kvplan.traces.prefixes import TextPool
from kvplan.traces.request import OUTPUT_BASE, OUTPUT_STRIDE, Request, TokenRuns, default_output
from kvplan.traces.streams import stream
from kvplan.traces.tokenspace import MAX_OUTPUT_TOKENS, MAX_REQUESTS, OWN_BASE, STRIDE, own_run
from kvplan.traces.workloads import Turns, Workload, workload

_WARM_UP_SESSIONS = 4.0
"""Mean lengths of a conversation that the process looks back before time 0."""

MAX_UNDER_WAY = 1 << 20
"""Most conversations drawn of the time before 0: half a minute and some hundred MiB."""

_EARLIER = MAX_REQUESTS // 2
"""Numbers of conversations begun before time 0 start here."""


def synthesize(
    name: str | Workload,
    requests: int,
    rate: float | None,
    seed: int = 0,
    *,
    arrivals: str = "poisson",
    shape: float = 1.0,
    input_tokens: int | str | Lengths | None = None,
    output_tokens: int | str | Lengths | None = None,
) -> Iterator[Request]:
    """``requests`` requests of a workload at ``rate`` per second on average.

    Without a rate every conversation begins at 0: they come one after the other, not in the order of time.

    Args:
        name: a bundled workload (``chat``, ``rag``, ``agentic``, ``fixed``) or one of your own.
        arrivals: process by which conversations (or single requests) start: ``poisson``, ``gamma``,
            ``weibull`` or ``constant``; ``shape`` as in ``ArrivalProcess``.
        input_tokens: replaces the lengths of first questions, an ``int`` or as in ``parse_lengths``.
        output_tokens: the same for answers.

    Raises:
        UsageError: an unknown name, or a number out of range.
    """
    if not 1 <= requests <= _EARLIER:
        raise UsageError(f"the number of requests must be between 1 and {_EARLIER:,}, not {requests:,}")
    chosen = workload(name) if isinstance(name, str) else name
    if input_tokens is not None:
        chosen = replace(chosen, question=_lengths(input_tokens))
    if output_tokens is not None:
        chosen = replace(chosen, answer=_lengths(output_tokens))
    process = None if rate is None else ArrivalProcess(rate, arrivals, shape)
    if chosen.turns is None and chosen.system is None and chosen.documents is None:
        return islice(_independent(chosen, process, seed), requests)
    if process is None:
        return islice(_one_by_one(chosen, seed), requests)
    return islice(_conversations(chosen, process, seed), requests)


def _lengths(value: int | str | Lengths) -> Lengths:
    return parse_lengths(str(value)) if isinstance(value, (int, str)) else value


def _independent(chosen: Workload, process: ArrivalProcess | None, seed: int) -> Iterator[Request]:
    """Requests that share nothing: the short way for long streams."""
    question = chosen.question.sampler(stream(seed, "question"))
    answer = chosen.answer.sampler(stream(seed, "answer"))
    prompt_start, output_start = OWN_BASE, OUTPUT_BASE
    times = repeat(0.0) if process is None else process.times(stream(seed, "arrivals"))
    for index, now in enumerate(times):
        asked, answered = question() or 1, answer() or 1
        if answered > MAX_OUTPUT_TOKENS:
            answered = MAX_OUTPUT_TOKENS
        yield Request(
            f"{index:06d}",
            now,
            ((prompt_start, asked),),
            asked,
            ((output_start, answered),),
            answered,
        )
        prompt_start += STRIDE
        output_start += OUTPUT_STRIDE


class _Conversation:
    """A conversation under way. Its own text is one run of ids: question, answer, question, ..."""

    __slots__ = (
        "answers", "gaps_s", "latest", "number", "offset", "own", "shared", "shared_tokens", "texts",
        "thinks_s", "turn",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        shared: TokenRuns,
        texts: list[int],
        answers: list[int],
        gaps_s: list[float],
        thinks_s: list[float],
    ) -> None:
        self.number = number
        self.shared = shared
        self.shared_tokens = sum(length for _, length in shared)
        self.texts = texts
        self.answers = answers
        self.gaps_s = gaps_s  # from turn to turn, as if answers came at the workload's pace
        self.thinks_s = thinks_s  # from an answer to the next turn
        self.latest: str | None = None  # id of the turn before
        self.turn = 0
        self.offset = 0  # where the own text in the context begins, among all the conversation ever had
        self.own = 0  # tokens of own text in the context

    @property
    def name(self) -> str:
        """``s12`` is the 13th conversation to begin; ``e3`` the 4th before time 0, counted backwards."""
        return f"s{self.number}" if self.number < _EARLIER else f"e{self.number - _EARLIER}"

    def request(self, index: int, now: float, turns: Turns | None) -> Request:
        """The next turn, at ``now``; request number ``index`` of the trace."""
        turn, name = self.turn, f"{index:06d}"
        prompt = self.ask(turns)
        prompt_tokens = self.shared_tokens + self.own
        output = self.answer(index)
        follows = None if self.latest is None else (self.latest, self.thinks_s[turn - 1])
        self.latest = name
        session = None if turns is None else self.name
        return Request(name, now, prompt, prompt_tokens, output, self.answers[turn], 0, session, follows)

    def ask(self, turns: Turns | None) -> TokenRuns:
        """Add the turn's text to the context, compacting it when it would outgrow its limit."""
        text = self.texts[self.turn]
        if turns is not None and self.turn:
            total = self.shared_tokens + self.own + text + self.answers[self.turn]
            if total > turns.max_context:
                self.offset += self.own
                self.own = turns.summary_tokens
        self.own += text
        return (*self.shared, own_run(self.number, self.own, self.offset))

    def answer(self, index: int) -> TokenRuns:
        """Content of the turn's answer: kept in the context when another turn follows."""
        tokens = self.answers[self.turn]
        self.turn += 1
        if self.turn == len(self.texts):
            return default_output(index, tokens)
        run = own_run(self.number, tokens, self.offset + self.own)
        self.own += tokens
        return (run,)


def _conversations(chosen: Workload, process: ArrivalProcess, seed: int) -> Iterator[Request]:
    turns = chosen.turns
    live: list[tuple[float, int, _Conversation]] = []
    if turns is not None:
        mean_turns = turns.mean_turns()
        if process.rate / mean_turns < LEAST_RATE:
            raise UsageError(
                f"{process.rate:g} requests a second are fewer than {chosen.name} can be drawn at: "
                f"{LEAST_RATE * mean_turns:.3g}, as conversations have {mean_turns:.3g} requests",
                hint="give a higher rate; rag and fixed have no conversations",
            )
        process = replace(process, rate=process.rate / mean_turns)
        gap_s = chosen.answer.mean() / turns.tokens_per_s + turns.think_ms.mean() / 1000
        back_s = _WARM_UP_SESSIONS * (mean_turns - 1) * gap_s
        if process.rate * back_s > MAX_UNDER_WAY:
            raise UsageError(
                f"{process.rate * mean_turns:,.6g} requests a second are more than {chosen.name} can be "
                f"drawn at: {MAX_UNDER_WAY * mean_turns / back_s:,.0f}, as conversations last",
                hint="simulate a part of the replicas; rag and fixed have no conversations",
            )
        live = list(_under_way(chosen, process, seed, back_s))
        heapq.heapify(live)
    starts = process.times(stream(seed, "arrivals"))
    begin = _Beginnings(chosen, seed, "")
    index = number = 0
    next_start = next(starts)
    while True:
        if not live or live[0][0] > next_start:
            heapq.heappush(live, (next_start, number, begin.conversation(number)))
            number += 1
            next_start = next(starts)
            continue
        now, _, talk = live[0]
        request = talk.request(index, now, turns)
        if talk.turn < len(talk.texts):
            heapq.heapreplace(live, (now + talk.gaps_s[talk.turn - 1], talk.number, talk))
        else:
            heapq.heappop(live)
        yield request
        index += 1


def _one_by_one(chosen: Workload, seed: int) -> Iterator[Request]:
    """Every conversation from time 0, whole, one after the other."""
    begin = _Beginnings(chosen, seed, "")
    index = 0
    for number in count():
        talk, now = begin.conversation(number), 0.0
        while talk.turn < len(talk.texts):
            yield talk.request(index, now, chosen.turns)
            index += 1
            if talk.turn < len(talk.texts):
                now += talk.gaps_s[talk.turn - 1]


def _under_way(
    chosen: Workload, process: ArrivalProcess, seed: int, back_s: float
) -> Iterator[tuple[float, int, _Conversation]]:
    """Conversations begun up to ``back_s`` before time 0 that have a turn left: (its time, number, talk).

    They are drawn backwards in time and from streams of their own, so that how far back one looks moves
    nothing that happens after 0.
    """
    turns = chosen.turns
    begin = _Beginnings(chosen, seed, "earlier ")
    for k, ago_s in enumerate(process.times(stream(seed, "earlier arrivals"))):
        if ago_s > back_s:
            return
        talk = begin.conversation(_EARLIER + k)
        now = -ago_s
        for gap_s in talk.gaps_s:
            talk.ask(turns)
            talk.answer(0)  # not the last turn, so the index plays no part
            now += gap_s
            if now >= 0.0:
                yield now, talk.number, talk
                break


class _Beginnings:
    """Draws everything about a conversation at its start, each kind of thing from its own stream."""

    def __init__(self, chosen: Workload, seed: int, which: str) -> None:
        self._turns = chosen.turns
        self._question = chosen.question.sampler(stream(seed, f"{which}question"))
        self._answer = chosen.answer.sampler(stream(seed, f"{which}answer"))
        self._system = self._document = None
        self._documents = chosen.documents_per_prompt if chosen.documents else 0
        if chosen.system is not None:
            self._system = TextPool(chosen.system, seed, "system", 0).picker(
                stream(seed, f"{which}system/picks")
            )
        if chosen.documents is not None:
            pool = TextPool(chosen.documents, seed, "documents", 1)
            self._document = pool.picker(stream(seed, f"{which}documents/picks"))
        if self._turns is not None:
            self._count = stream(seed, f"{which}turns").random
            self._going_on = 1.0 - 1.0 / self._turns.mean
            self._follow_up = self._turns.follow_up.sampler(stream(seed, f"{which}follow-ups"))
            self._later_answer = chosen.answer.sampler(stream(seed, f"{which}later answers"))
            self._think_ms = self._turns.think_ms.sampler(stream(seed, f"{which}think times"))

    def conversation(self, number: int) -> _Conversation:
        """The conversation with that number, which owns the unique text of that number."""
        shared: list[tuple[int, int]] = []
        if self._system is not None:
            shared.append(self._system())
        if self._document is not None:
            picked: dict[tuple[int, int], None] = {}
            for _ in range(self._documents):
                picked.setdefault(self._document())  # a passage retrieved twice is put in once
            shared.extend(picked)
        texts, answers = [self._question() or 1], [min(self._answer() or 1, MAX_OUTPUT_TOKENS)]
        gaps_s: list[float] = []
        thinks_s: list[float] = []
        turns = self._turns
        if turns is not None:
            # Inversion of the geometric distribution: one uniform decides the number of turns.
            count = 1
            if self._going_on > 0.0:
                count += min(turns.most - 1, int(math.log(1.0 - self._count()) / math.log(self._going_on)))
            for turn in range(1, count):
                think_s = self._think_ms() / 1000
                thinks_s.append(think_s)
                gaps_s.append(answers[turn - 1] / turns.tokens_per_s + think_s)
                texts.append(self._follow_up() or 1)
                answers.append(min(self._later_answer() or 1, MAX_OUTPUT_TOKENS))
        return _Conversation(number, tuple(shared), texts, answers, gaps_s, thinks_s)
