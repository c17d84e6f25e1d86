"""An engine that answers every request with several samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kvplan.engine.arrivals import Arrivals, arrivals_of
from kvplan.engine.config import EngineConfig
from kvplan.engine.protocols import LatencyModel
from kvplan.engine.recorder import OF_SCHEDULERS, Metric, Recorder
from kvplan.engine.replica import Replica
from kvplan.engine.sampling.beams import BeamScheduler
from kvplan.engine.sampling.forking import ForkingScheduler
from kvplan.engine.sampling.samples import SampleArrivals, SampleRows
from kvplan.traces.request import Request

Fork: TypeAlias = Literal["copy-on-write", "requests"]


@dataclass(frozen=True, slots=True)
class SamplingRule:
    """How many samples, and how they share.

    Attributes:
        n: samples of every request.
        fork: ``copy-on-write``: the prompt is computed once and its blocks are held together; ``requests``:
            every sample is a request of its own that finds the prompt in the prefix cache, vLLM v1's way.
        trunk_lag: of beams, the tokens in which they differ; ``None``: independent samples.
        block_bytes: bytes of a block, where known.
    """

    n: int
    fork: Fork = "copy-on-write"
    trunk_lag: int | None = None
    block_bytes: int | None = None


class ForkingReplica(Replica):
    """One engine whose scheduler forks requests."""

    def __init__(
        self, config: EngineConfig, latency: LatencyModel, recorder: Recorder, rule: SamplingRule
    ) -> None:
        self.rule = rule
        super().__init__(config, latency, recorder)

    def make_scheduler(self) -> ForkingScheduler:
        """One of independent samples or of beams."""
        n, lag = self.rule.n, self.rule.trunk_lag
        self.forking = (
            ForkingScheduler(self.config, n, keep_schedule=self.logging)
            if lag is None
            else BeamScheduler(self.config, n, lag, keep_schedule=self.logging)
        )
        return self.forking

    def close(self) -> None:
        """As the base class; blocks of trunks come free between two looks at what is used."""
        super().close()
        if isinstance(self.forking, BeamScheduler):
            totals = self.recorder.totals
            totals.peak_used_blocks = max(totals.peak_used_blocks, self.forking.beams.most_used)


class SamplingEngine:
    """Serves requests with ``rule.n`` samples each, and reports them as one.

    Peaks and totals of the scheduler count samples; requests, rows and latencies count requests. In a
    decision log a sample is its request's id, ``#`` and its number.
    """

    def __init__(
        self, config: EngineConfig, latency: LatencyModel, recorder: Recorder, rule: SamplingRule
    ) -> None:
        self.rule = rule
        self.recorder = recorder
        self.rows = SampleRows(rule.n, recorder)
        inner = Recorder(
            on_request=self.rows.finished,
            on_rejected=self.rows.rejected,
            on_decision=recorder.on_decision,
        )
        inner.series, inner.series_stride = recorder.series, recorder.series_stride
        self.inner = inner
        self.replica: Replica
        if rule.fork == "requests":
            self.replica = Replica(config, latency, inner)
        else:
            self.replica = ForkingReplica(config, latency, inner, rule)

    def run(self, requests: Iterable[Request] | Arrivals) -> None:
        """Serve the requests, which arrive in the order given."""
        arrivals = arrivals_of(requests, self.recorder)
        # Where requests fork, the scheduler makes the other samples of each first one.
        n = self.rule.n if self.rule.fork == "requests" else 1
        self.replica.run(SampleArrivals(arrivals, n, self.recorder.totals))

    def close(self) -> None:
        """Bring the totals up to date; also after an interrupted run."""
        self.replica.close()
        self.recorder.totals.add_up(("steps", *OF_SCHEDULERS), [self.inner.totals])
        self.recorder.settle()
        self.recorder.sections["sampling"] = self._metrics()

    def _metrics(self) -> list[Metric]:
        rule, size = self.rule, self.replica.config.block_size
        kind = "parallel samples" if rule.trunk_lag is None else "beams"
        found = [
            Metric("samples", rule.n, "1", f"{kind} of every request"),
            Metric("fork", rule.fork, "", "how samples come to share their prompt"),
        ]
        if not isinstance(self.replica, ForkingReplica):
            shared = self.rows.shared_tokens // size
            found.append(
                Metric("shared_blocks", shared, "blocks", "found in the cache by samples after the first")
            )
            return [*found, *self._bytes("shared_bytes", shared, "held once instead of once a sample")]
        scheduler = self.replica.forking
        found += [
            Metric(
                "shared_blocks", scheduler.shared_blocks, "blocks", "of prompts, held once, not by sample"
            ),
            *self._bytes("shared_bytes", scheduler.shared_blocks, "the same"),
            Metric("copies", scheduler.copies, "blocks", "last blocks of prompts, copied when written to"),
            *self._bytes("copied_bytes", scheduler.copies, "the same"),
            Metric("postponed_samples", scheduler.postponed, "1", "found no room when their request forked"),
        ]
        if isinstance(scheduler, BeamScheduler):
            merged = scheduler.merged_blocks
            replaced = round(scheduler.replaced)
            found += [
                Metric("trunk_lag", rule.trunk_lag, "tokens", "last tokens in which beams differ"),
                Metric("merged_blocks", merged, "blocks", "freed as the trunk of beams reached their end"),
                Metric("beam_copies", replaced, "blocks", "expected: by beams that continued another one"),
                *self._bytes("beam_copied_bytes", replaced, "the same"),
            ]
        return found

    def _bytes(self, name: str, blocks: int, meaning: str) -> list[Metric]:
        """The blocks in bytes, where those are known."""
        size = self.rule.block_bytes
        return [] if size is None else [Metric(name, blocks * size, "bytes", meaning)]
