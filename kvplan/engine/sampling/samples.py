"""A request's samples: what they ask for, and one row for all of them.

Every sample has the prompt of its request and as many output tokens. Sample 0 has the answer of the trace,
which a later turn of the conversation continues; the others have tokens of their own.
"""

from __future__ import annotations

from kvplan.engine.arrivals import Arrivals, Relayed
from kvplan.engine.recorder import Recorder, RequestRow, Totals
from kvplan.traces.request import OUTPUT_STRIDE, Request

SAMPLE_BASE = 1 << 60
"""Beyond all tokens of a trace."""


def sample_of(request: Request, sample: int, number: int, name: str | None = None) -> Request:
    """Sample ``sample`` of a request; ``number`` tells its tokens from those of all other samples.

    Named as vLLM names them, whose queue by priority looks at names last. ``name``: the request's id, where
    ``request`` is a sample itself.
    """
    output = request.output
    if sample:
        output = ((SAMPLE_BASE + number * OUTPUT_STRIDE, request.output_tokens),)
    return Request(
        f"{sample}_{name or request.id}", request.arrival_s, request.prompt, request.prompt_tokens, output,
        request.output_tokens, request.priority, request.session,
    )  # fmt: skip


def another_sample(first: Request, sample: int, number: int) -> Request:
    """Sample ``sample`` beside the first one of the same request."""
    return sample_of(first, sample, number, first.id.partition("_")[2])


class SampleArrivals(Relayed):
    """Samples of requests, as requests of their own: those of one request arrive together.

    Clients wait for whole requests: they hear of answers from whoever gathers the samples, not from here.

    Args:
        inner: of requests.
        n: samples of each.
        totals: where requests are counted.
    """

    def __init__(self, inner: Arrivals, n: int, totals: Totals) -> None:
        super().__init__(inner)
        self._n = n
        self._totals = totals
        self._request: Request | None = None
        self._sample = 0

    @property
    def next_s(self) -> float:
        """See the base class."""
        return self.inner.next_s if self._request is None else self._request.arrival_s

    @property
    def over(self) -> bool:
        """See the base class."""
        return self._request is None and self.inner.over

    def take(self) -> Request:
        """See the base class."""
        request, sample = self._request, self._sample
        if request is None:
            request = self._request = self.inner.take()
            self._totals.requests += 1
        self._sample += 1
        if self._sample == self._n:
            self._request, self._sample = None, 0
        return sample_of(request, sample, (self._totals.requests - 1) * self._n + sample)

    def answered(self, request_id: str, time_s: float) -> None:
        """A sample is no answer."""

    def turned_away(self, request_id: str) -> None:
        """Nor is its refusal."""


class SampleRows:
    """Gathers what happens to samples, and reports it by request.

    A request is scheduled and has its first token when the first of its samples is, and is finished with
    the last. Its output tokens are those of all samples; its time per output token is that of the samples,
    which run side by side.

    Attributes:
        shared_tokens: tokens that samples after the first found in the cache.
    """

    def __init__(self, n: int, recorder: Recorder) -> None:
        self.n = n
        self.recorder = recorder
        self.shared_tokens = 0
        self._rows: dict[str, list[RequestRow]] = {}

    def finished(self, row: RequestRow) -> None:
        """One sample is finished."""
        sample, _, request = row.id.partition("_")
        if sample != "0":
            self.shared_tokens += row.cached_tokens
        rows = self._rows.setdefault(request, [])
        rows.append(row)
        if len(rows) == self.n:
            del self._rows[request]
            self._report(request, rows)

    def _report(self, request: str, rows: list[RequestRow]) -> None:
        leader = min(rows, key=lambda row: row.scheduled_s)
        whole = RequestRow(
            request,
            leader.arrival_s,
            leader.scheduled_s,
            min(row.first_token_s for row in rows),
            max(row.finish_s for row in rows),
            leader.prompt_tokens,
            sum(row.output_tokens for row in rows),
            next(row.cached_tokens for row in rows if row.id.startswith("0_")),
            sum(row.preemptions for row in rows),
        )
        recorder = self.recorder
        recorder.finished(whole)
        recorder.settle()
        if whole.output_tokens > 1:
            del recorder.tpot_s[-1]
            if leader.output_tokens > 1:
                seconds = whole.finish_s - whole.first_token_s
                recorder.tpot_s.append(seconds / (leader.output_tokens - 1))

    def rejected(self, sample_id: str, reason: str, time_s: float | None = None) -> None:
        """One sample was turned away, and so will be the others."""
        sample, _, request = sample_id.partition("_")
        if sample == "0":
            self.recorder.rejected(request, reason, time_s)
