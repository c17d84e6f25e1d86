"""The cheapest deployment that meets every objective (``kvplan.plan/1``).

Candidates are kinds of replicas: a GPU, a tensor parallelism, whatever else is varied. Of each the fewest
replicas are sought that serve the workload within the objectives; of pools of prefill and decode instances
the cheapest sizes of both. A workload that is too short to show what
its load does (``kvplan.scenario.settling``) is made longer, where it is synthetic, until the cheapest answer
stays, or until it is no matter of chance that there is none. Last, the same is sought for that answer with
every step as much slower and faster as the clock's band says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from kvplan.errors import AnswerIsNo, Interrupted, KvplanError
from kvplan.provenance import provenance
from kvplan.scenario.candidate import Candidate
from kvplan.scenario.figures import UNSERVED
from kvplan.scenario.outcomes import failure, outcomes
from kvplan.scenario.plannable import check_fields, check_scenarios
from kvplan.scenario.pools import Pool, pools_of
from kvplan.scenario.rank import rank, tightest
from kvplan.scenario.schema import Scenario
from kvplan.scenario.serve import serve_line
from kvplan.scenario.settling import FILLED, LIFETIMES, TAIL, longer, most_requests, settled, tail
from kvplan.scenario.sizes import DECODE, Sizes
from kvplan.scenario.sweep import Sweep
from kvplan.scenario.workload import DEFAULT_REQUESTS

SCHEMA = "kvplan.plan/1"

MOST_GPUS = 64
CONNECTED = """--kv-transfer-config '{{"kv_connector":"NixlConnector","kv_role":"{}"}}'"""
"""What lets instances of vLLM send and take caches; the way in between is chosen by a proxy before them."""

Range = dict[str, float | list[int] | None]
Answer = tuple[int, Sizes | None]
"""Index of a candidate, and its sizes."""


class Plan:
    """A search about to be made.

    Args:
        kinds: the candidates, each a point whose sizes of pools mean nothing.
        most_gpus: of a deployment.
        longest: requests up to which a synthetic workload is made longer; None: as a search's.

    Raises:
        UsageError: no objective, or fields varied that a plan seeks itself or compares under.
        UnknownName: a GPU or model that nobody knows.
    """

    def __init__(self, kinds: Sweep, *, most_gpus: int = MOST_GPUS, longest: int | None = None) -> None:
        self._kinds, self.most_gpus = kinds, most_gpus
        known = [item for item in kinds.scenarios if isinstance(item, Scenario)]
        wrong = [item for item in kinds.scenarios if isinstance(item, KvplanError)]
        check_fields(kinds.axes)
        if not known:
            raise wrong[0]
        self.first = known[0]
        check_scenarios(known)
        self.candidates = [self._candidate(item) for item in kinds.scenarios]
        workload = self.first.workload
        begin = workload.requests or DEFAULT_REQUESTS
        self.requests: int | None = None if workload.synthesize is None else begin
        """Of every run; None where the trace says."""
        self._longest = most_requests(begin, longest)
        self._before: Answer | None = None
        self._shorter: tuple[list[Candidate], int, Answer | None] | None = None
        """What was found before the last lengthening: candidates, requests and the answer before that."""
        self.range: Range | None = None
        """Sizes of the best with every step slower and faster by the clock's band; None for no claim."""
        self.complete = False
        self._done = 0

    def _candidate(self, item: Scenario | KvplanError) -> Candidate:
        if isinstance(item, KvplanError):
            broken = Candidate(self.first, pools_of(self.first), self.most_gpus)
            broken.tried[()] = failure(item)
            return broken
        candidate = Candidate(item, pools_of(item), self.most_gpus)
        gpus = candidate.least_gpus
        if gpus > self.most_gpus:
            what = "a replica has" if len(candidate.pools) == 1 else "an instance of each pool has"
            problem = AnswerIsNo(f"{what} {gpus} GPUs, more than the {self.most_gpus} allowed")
            candidate.tried[()] = failure(problem)
        return candidate

    @property
    def best(self) -> int | None:
        """Index of the cheapest candidate that meets every objective."""
        found = [index for index, item in enumerate(self.candidates) if item.passed is not None]
        return min(found, key=self._rank, default=None)

    def _rank(self, index: int) -> tuple[float, ...]:
        candidate = self.candidates[index]
        figures, sizes = candidate.figures, candidate.passed
        assert figures is not None
        assert sizes is not None
        return rank(candidate.prices.total_gpus(sizes), figures, index)

    def execute(self, jobs: int = 1, on_done: Callable[[int], None] | None = None) -> None:
        """Search, with at most ``jobs`` simulations at a time; ``on_done`` hears how many are done.

        Raises:
            Interrupted: by the user; what was tried until then is kept.
        """
        try:
            for candidate in self.candidates:
                candidate.refuse()
            while True:
                self._close_in(self.candidates, jobs, on_done)
                requests = self._more()
                if requests is None:
                    break
                self._lengthen(requests)
            self.range = self._range(jobs, on_done)
            self.complete = True
        except KeyboardInterrupt as exc:
            self._fall_back()
            raise Interrupted("the plan was interrupted") from exc

    def _fall_back(self) -> None:
        """A whole answer of fewer requests is worth more than half an answer of many."""
        if self._shorter is not None and any(item.next() for item in self.candidates):
            self.candidates, self.requests, self._before = self._shorter

    def _close_in(
        self,
        candidates: Sequence[Candidate],
        jobs: int,
        on_done: Callable[[int], None] | None,
        slower: float = 1.0,
    ) -> None:
        """Try sizes, those of every candidate at a time, until all answers are known."""
        while True:
            wanted = {index: sizes for index, item in enumerate(candidates) if (sizes := item.next())}
            if not wanted:
                return
            asked = {index: self._document(candidates[index], sizes) for index, sizes in wanted.items()}
            with closing(outcomes(asked, jobs, slower)) as found:
                for index, outcome in found:
                    candidates[index].tried[wanted[index]] = outcome
                    self._done += 1
                    if on_done is not None:
                        on_done(self._done)

    def _document(self, candidate: Candidate, sizes: Sizes) -> dict[str, Any]:
        """The resolved scenario with pools of such sizes."""
        document = candidate.scenario.to_dict()
        for pool, size in zip(candidate.pools, sizes, strict=True):
            *parts, name = pool.field.split(".")
            part = document
            for key in parts:
                part = part[key]
            part[name] = size
        if self.requests is not None:
            document["workload"]["requests"] = self.requests
        return document

    def _figures(self) -> Mapping[str, Any] | None:
        """Of the best candidate."""
        return None if self.best is None else self.candidates[self.best].figures

    @property
    def settled(self) -> bool | None:
        """Whether the best answer's run was long enough, and the one before agrees; None for none."""
        figures = self._figures()
        if figures is None or self.best is None:
            return None
        moved = self._before is not None and self._before != (self.best, self.candidates[self.best].passed)
        return bool(settled(figures)) and not moved

    def _more(self) -> int | None:
        """How many requests to try next; None where the answer stands, or more are not to be had."""
        figures, requests = self._figures(), self.requests
        if requests is None:
            return None
        if figures is None:
            # Of those that all miss the one that was nearest to an end tells how much longer is enough.
            figures = next((item.figures for item in self.candidates if _by_chance(item.figures)), None)
        elif self.settled and tail(figures) >= TAIL:
            return None
        if figures is None:
            return None
        return longer(figures, requests, self._longest)

    def _lengthen(self, requests: int) -> None:
        assert self.requests is not None
        self._shorter = self.candidates, self.requests, self._before
        self._before = None if self.best is None else (self.best, self.candidates[self.best].passed)
        self.requests = requests
        self.candidates = [item.again() for item in self.candidates]

    def _range(self, jobs: int, on_done: Callable[[int], None] | None) -> Range | None:
        """Both ends of the best answer's interval, by the band of the objective nearest to its limit.

        None also where a number on the way cannot be simulated: that says nothing about its latencies.
        """
        figures, best = self._figures(), self.best
        if figures is None or best is None or not self.settled:
            return None
        objective = tightest(figures)
        band = None if objective is None else objective["band"]
        if band is None:
            return None
        found: dict[str, Sizes | None] = {}
        answer = self.candidates[best].passed
        assert answer is not None
        for end, factor in (("low", 1.0 + band[0]), ("high", 1.0 + band[1])):
            tries = self.candidates[best].again()
            self._close_in([tries], jobs, on_done, factor)
            if tries.error is not None:
                return None
            found[end] = tries.passed
        # Other batches and hits may make a faster clock need more; an interval has its answer in it.
        low, high, cost = found["low"], found["high"], self.candidates[best].cost
        return {
            "faster": 1.0 + band[0],
            "slower": 1.0 + band[1],
            "low": _listed(answer if low is None else min(low, answer, key=cost)),
            "high": None if high is None else _listed(max(high, answer, key=cost)),
        }

    @staticmethod
    def _serve(candidate: Candidate) -> list[str | None]:
        """The commands that start an engine of every pool; None where there is none."""
        found: list[str | None] = []
        for pool in candidate.pools:
            line = serve_line(pool.serves)
            connected = line is not None and pool.kv_role is not None
            found.append(f"{line} {_connected(pool)}" if connected else line)
        return found

    def document(self, command: Sequence[str]) -> dict[str, Any]:
        """The ``kvplan.plan/1`` document of what is known."""
        best = self.best
        return {
            "schema": SCHEMA,
            "complete": self.complete,
            "axes": [{"key": axis.key, "values": list(axis.values)} for axis in self._kinds.axes],
            "scenario": self.first.to_dict(),
            "most_gpus": self.most_gpus,
            "requests": self.requests,
            "settled": self.settled,
            "best": None if best is None else best + 1,
            "range": self.range,
            "assumptions": [] if best is None else self.candidates[best].run["assumptions"],
            "serve": [] if best is None else self._serve(self.candidates[best]),
            "candidates": list(self._rows()),
            "provenance": provenance(command, self.first.seed, self._kinds.inputs()),
        }

    def _rows(self) -> Iterator[dict[str, Any]]:
        for number, (candidate, point, values) in enumerate(
            zip(self.candidates, self._kinds.points, self._kinds.values(), strict=True), 1
        ):
            shown, error = candidate.shown, candidate.error
            yield {
                "candidate": number,
                "values": dict(zip(point, values, strict=True)),
                "status": _status(candidate),
                "pools": [
                    {"field": pool.field, "gpu": pool.gpu, "gpus": pool.gpus} for pool in candidate.pools
                ],
                "sizes": _listed(shown),
                "gpus": None if shown is None else candidate.prices.total_gpus(shown),
                "missed": None if candidate.passed is None else _listed(candidate.missed),
                "figures": candidate.figures,
                "warnings": candidate.run["warnings"],
                "error": error,
            }


def _listed(sizes: Sizes | None) -> list[int] | None:
    """As JSON has it."""
    return None if sizes is None else list(sizes)


def _status(candidate: Candidate) -> str:
    """What it has figures of is known, whatever ended its search."""
    if candidate.shown is not None:
        return "misses" if candidate.passed is None else "meets"
    if candidate.error is None:
        return "not run"
    return "does not fit" if candidate.error["exit_code"] == AnswerIsNo.exit_code else "failed"


def _by_chance(figures: Mapping[str, Any] | None) -> bool:
    """Whether what missed may meet in a longer run: the percentile of a handful, or all of it a beginning.

    Where requests pile up, or cannot be served, more of them change nothing.
    """
    if figures is None or any(figures[name] for name in UNSERVED):
        return False
    short = figures["arrivals_s"] < LIFETIMES * (figures["e2e_p99_s"] or 0.0)
    return tail(figures) < TAIL or (short and (figures["growth"] or 0.0) <= FILLED)


def _connected(pool: Pool) -> str:
    """What makes an engine a server of one of two pools."""
    part = pool.serves.disaggregation
    if pool.serves.engine.kind == "vllm" or part is None:
        return CONNECTED.format(pool.kv_role)
    from kvplan.scenario.sglang_disaggregation import role_flags

    return role_flags(part, decodes=pool.field == DECODE)
