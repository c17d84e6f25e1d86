"""What engines of ranks in step have in common: dealing requests, counting, what the result says of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from kvplan.engine.arrivals import Arrivals, arrivals_of, serve
from kvplan.engine.member import Member
from kvplan.engine.protocols import StepBatch, together
from kvplan.engine.recorder import OF_SCHEDULERS, Metric, Recorder, SeriesPoint
from kvplan.engine.router import make_router
from kvplan.traces.request import Request

if TYPE_CHECKING:
    from kvplan.engine.patience import Patience

SECTION = "dp_attention"
"""Of a result: what ranks have to tell."""

DEALT = "dealt"
"""What is counted of ranks whose requests end elsewhere."""


R = TypeVar("R", bound=Member)
"""An engine whose steps its group plans, times and delivers."""


class RankGroup(Generic[R]):
    """Ranks in step.

    Rows of all ranks go to the one recorder. Decision lines carry the rank's number and a tab in front; a
    rank with nothing to do has none. ``steps`` counts those of all ranks together once; other totals are sums
    (peaks: of the ranks' own peaks).

    Args:
        ranks: for each its recorder.
        router: deals requests to ranks when they arrive.
    """

    def __init__(self, router: str, recorder: Recorder) -> None:
        self.recorder = recorder
        self.router = make_router(router)
        self.ranks: Sequence[R] = ()
        self.clock = 0.0
        self.stops = self.stopped = False
        """See ``Stepped``."""
        self.drafting_s = 0.0
        """How much of the last step accounted for made drafts."""
        self._dealt: list[int] = []
        self._idle_steps = 0
        self._busy_s = self._own_s = 0.0

    def recorder_of(self, index: int) -> Recorder:
        """What rank ``index`` writes to; the series is that of all ranks together."""
        return self.recorder.of_member(index, series=False)

    def run(self, requests: Iterable[Request] | Arrivals) -> None:
        """Serve the requests, which arrive in the order given."""
        serve(self, arrivals_of(requests, self.recorder))

    def advance(self, until: float) -> None:
        """Go on until the clock is at ``until`` or later, or nothing is left to do; see also ``stops``."""
        raise NotImplementedError

    def expect(self, patience: Patience) -> None:
        """See ``Stepped``."""
        for rank in self.ranks:
            rank.expect(patience)

    def push(self, request: Request) -> None:
        """A request arrives and is dealt to a rank; ``advance`` must have been called up to its arrival."""
        self.give(request)

    def give(self, request: Request) -> int:
        """As ``push``; returns which of the ranks has it."""
        if request.arrival_s > self.clock and not self.busy:
            self.clock = request.arrival_s
        number = self.deal(request)
        rank = self.ranks[number]
        rank.clock = self.clock
        rank.push(request)
        return number

    def deal(self, request: Request) -> int:
        """Which of the ranks gets a request."""
        rank = self.router.choose(request, self.ranks)
        self._dealt = self._dealt or [0] * len(self.ranks)
        self._dealt[rank] += 1
        return rank

    # -- what a router sees -----------------------------------------------------------------------------

    @property
    def requests(self) -> int:
        """Requests it has, running and waiting."""
        return sum(rank.requests for rank in self.ranks)

    @property
    def used_blocks(self) -> int:
        """Blocks that running requests hold."""
        return sum(rank.used_blocks for rank in self.ranks)

    def prompt_blocks_of(self, request: Request) -> int:
        """Blocks the request's prompt fills."""
        return self.ranks[0].prompt_blocks_of(request)

    def cached_blocks_of(self, request: Request) -> int:
        """Blocks of the request's prompt that are in the prefix cache of the rank that has most of it."""
        return max(rank.cached_blocks_of(request) for rank in self.ranks)

    # -- steps ------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return any(rank.busy for rank in self.ranks)

    def meet(self, batches: Sequence[StepBatch]) -> None:
        """These are what the ranks compute in one step: every rank that has something to compute."""
        together(batches, len(self.ranks))

    def account(self, batches: Sequence[StepBatch], needed: Sequence[float]) -> float:
        """The step's seconds: those of the slowest rank, for which the others wait.

        Args:
            batches, needed: of every rank that has something to compute, and its seconds.
        """
        slowest, self.drafting_s = max(
            (seconds, batch.drafting_s) for seconds, batch in zip(needed, batches, strict=True)
        )
        own = 0.0
        for seconds in needed:  # one by one, as bulk steps add them
            own += seconds
        self._busy_s += slowest * len(self.ranks)
        self._own_s += own
        self._idle_steps += len(self.ranks) - len(needed)
        return slowest

    def point(self, now: float) -> SeriesPoint:
        """The state as the series has it, all ranks together."""
        _, *columns = zip(*[rank.point(now) for rank in self.ranks], strict=True)
        return SeriesPoint(now, *map(sum, columns))

    def note(self, clock: float) -> None:
        """Count a step, and write a point of the series where one is due."""
        recorder = self.recorder
        if recorder.wants_point(recorder.totals.steps):
            recorder.point(self.point(clock))
        recorder.totals.steps += 1

    def close(self) -> None:
        """Bring totals and metrics up to date; also after an interrupted run."""
        totals = self.recorder.totals
        for rank in self.ranks:
            rank.close()
        totals.add_up(("requests", *OF_SCHEDULERS), [rank.recorder.totals for rank in self.ranks])
        self.recorder.settle()
        served, what = self.served()
        said = f"{what} {'to' if what == DEALT else 'by'} one rank"
        hottest = [rank.recorder.totals.peak_used_blocks for rank in self.ranks]
        waited = 1 - self._own_s / self._busy_s if self._busy_s else 0.0
        parts = totals.steps * len(self.ranks)
        self.recorder.sections[SECTION] = [
            Metric("ranks", len(self.ranks), "1", "attention ranks in step, each with a pool of its own"),
            Metric("waited", waited, "1", "share of the ranks' time spent waiting for the slowest one"),
            Metric(
                "idle", self._idle_steps / parts if parts else 0.0, "1", "share of steps a rank ran empty"
            ),
            Metric(f"most_{what}", max(served), "requests", said),
            Metric(f"least_{what}", min(served), "requests", said),
            Metric("most_peak_used_blocks", max(hottest), "blocks", "of one rank"),
            Metric("least_peak_used_blocks", min(hottest), "blocks", "of one rank"),
        ]
        self.recorder.sections |= self.sections()

    def served(self) -> tuple[list[int], str]:
        """Requests of each rank that have ended there, and how."""
        return [rank.recorder.totals.finished for rank in self.ranks], "finished"

    def dealt(self) -> tuple[list[int], str]:
        """The same where requests end elsewhere, or not here alone."""
        return self._dealt or [0] * len(self.ranks), DEALT

    def sections(self) -> dict[str, list[Metric]]:
        """What ranks themselves have to tell, under their numbers."""
        return {
            f"{name} {index}": metrics
            for index, rank in enumerate(self.ranks)
            for name, metrics in rank.recorder.sections.items()
        }
