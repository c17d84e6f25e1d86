"""Check and time every kernel on this machine's GPU: ``python -m kvplan.kernels.benchmark -o FILE``.

One run: environment, correctness, ceilings, the calibration grid with its hold-out, side grids, peers. It
stops starting new work when its time is up, keeps what it has, and continues where it stopped when called
again with the same file. The last thing printed is a short table. Exit code 0; 1 when a result was wrong or a
kernel failed; 4 without a GPU.

The file is one JSON object, schema ``kvplan.kernel-measurements/1``:

``environment``  versions, device, clocks as found, ``kernels`` (digest of the kernel sources), ``l2_bytes``,
                 ``dry_run`` (true: durations are made up, the file is good for nothing but tests)
``complete``     whether every stage ran to its end
``correctness``  rows ``{key, kind, ok, error, bound, lse_error, message}``; kinds case, write, graph, warm
``ceilings``     rows ``{key, bytes | flops ..., TIMING}``; ``copy`` counts bytes read plus written, ``read``
bytes
                 read; ``matmul_*`` carry ``tokens, features_in, features_out``; ``host/*`` direction and
                 pinning;
                 ``launch/*`` seconds of an empty kernel
``points``       rows of ``bench.points.Point`` fields with ``kv_bytes, io_bytes, flops``, what was chosen
                 (``splits, buffers, fused``) and TIMING; ``stage == "holdout"`` is not for fitting
``peers``        rows ``{peer, point fields, TIMING}`` or ``{peer, ..., message}``
``failures``     rows ``{stage, key, message}``

TIMING is ``median_s, p25_s, p75_s, least_s`` (seconds of one call), ``repetitions, calls_per_repetition``.
Points were timed by CUDA-graph replay over ``buffers`` copies of the cache, at least three times the L2 in
all.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from kvplan.errors import EnvironmentLacks, Interrupted, KvplanError
from kvplan.kernels.bench import ceilings, correctness, peers, points, summary, workload
from kvplan.kernels.bench.environment import environment, gpu_state
from kvplan.kernels.bench.record import Record
from kvplan.kernels.bench.timer import DryTimer, EventTimer, GraphTimer, Timer


class Run:
    """One call of the benchmark: where it writes, how it times, and when it must stop."""

    def __init__(self, record: Record, device: str, timer: Timer, seconds: float, tiny: bool) -> None:
        self.record, self.device, self.timer, self.tiny = record, device, timer, tiny
        self.started, self.seconds = time.monotonic(), seconds
        self.l2_bytes = int(record.body["environment"]["l2_bytes"])
        self.complete = True

    def late(self, share: float) -> bool:
        """Whether this share of the time is used up."""
        return time.monotonic() - self.started > share * self.seconds

    def say(self, text: str) -> None:
        """Progress, on stderr."""
        print(f"[{time.monotonic() - self.started:5.0f} s] {text}", file=sys.stderr, flush=True)

    def each(self, stage: str, items: Iterable[Any], key: Callable[[Any], str],
             measure: Callable[[Any], dict[str, Any]], share: float, section: str) -> None:  # fmt: skip
        """Measure what the record does not hold yet, until ``share`` of the time is used."""
        done = 0
        for item in items:
            name = key(item)
            if self.record.has(section, name):
                continue
            if self.late(share):
                self.complete = False
                self.say(f"{stage}: out of time after {done}")
                break
            try:
                row = measure(item)
            except Exception as exc:  # recorded, and the run fails at its end; the other points still count
                if section == "peers":
                    row = {"message": f"{type(exc).__name__}: {exc}"[:300]}
                else:
                    self.record.fail(stage, name, f"{type(exc).__name__}: {exc}")
                    continue
            finally:
                self.free()
            self.record.add(section, {"key": name} | row)
            done += 1
        self.record.save()
        self.say(f"{stage}: {done} measured")

    def free(self) -> None:
        """Give a point's buffers back before the next one."""
        gc.collect()
        if self.device == "cuda" and torch.cuda.memory_reserved() > 16 << 30:
            torch.cuda.empty_cache()

    def point(self, point: points.Point) -> dict[str, Any]:
        """Time one point."""
        work = workload.build(point, self.device, self.l2_bytes)
        return point.row() | work.chosen | self.timer.time(work.calls).row()

    def ceiling(self, item: ceilings.Ceiling) -> dict[str, Any]:
        """Time one ceiling."""
        return item.fields | ceilings.timer_for(item, self.timer).time(item.calls()).row()

    def peer(self, item: peers.Peer) -> dict[str, Any]:
        """Time one peer at one point."""
        timer: Timer = EventTimer() if item.eager else self.timer
        row = {k: v for k, v in item.point.row().items() if k != "key"}
        return {"peer": item.name} | row | timer.time(item.make(self.device)).row()


def perform(run: Run) -> None:
    """Every stage, in the order of what matters most."""
    tiny = points.tiny()
    grid = tiny if run.tiny else list(points.grid())
    random.Random(0).shuffle(grid)
    hold, side = ([], []) if run.tiny else (points.holdout(), list(points.side()))
    todo = [job for job in correctness.jobs(run.tiny, [*grid, *hold, *side]) if not _passed(run.record, job)]
    for row in correctness.run(todo, run.device):
        run.record.add("correctness", row)
    run.record.save()
    run.say(f"correctness: {len(todo)} checked, {len(run.record.wrong())} wrong")
    run.each(
        "ceilings", ceilings.ceilings(run.device, run.tiny), lambda c: c.key, run.ceiling, 0.5, "ceilings"
    )
    by_key: Callable[[Any], str] = lambda p: p.key  # noqa: E731
    if not run.tiny:
        run.each("drift", points.drift(0), by_key, run.point, 0.7, "points")
    run.each("hold-out", hold, by_key, run.point, 0.75, "points")
    run.each("grid", grid, by_key, run.point, 0.82, "points")
    run.each("side", side, by_key, run.point, 0.9, "points")
    run.each("peers", peers.peers(run.tiny), lambda p: f"{p.name}/{p.point.key}", run.peer, 0.96, "peers")
    if not run.tiny:
        run.each("drift", points.drift(1), by_key, run.point, 1.0, "points")


def _passed(record: Record, job: tuple[str, Any]) -> bool:
    kind, what = job
    name = what if isinstance(what, str) else getattr(what, "key", None) or what.name
    return record.passed(f"{kind}/{name}")


def main(arguments: list[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m kvplan.kernels.benchmark", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="measurements, JSON; continued if it exists"
    )
    parser.add_argument("--minutes", type=float, default=7.0, help="stop starting new work after this long")
    parser.add_argument(
        "--dry-run", action="store_true",
        help="tiny sizes on the CPU, made-up durations: tests all but the speed (set TRITON_INTERPRET=1)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        return _main(options)
    except KvplanError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code


def _main(options: argparse.Namespace) -> int:
    device = "cpu" if options.dry_run else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentLacks("there is no CUDA device here", hint="--dry-run tests the plumbing on the CPU")
    if device == "cpu":
        from kvplan.kernels import launch

        if not launch.INTERPRETED:
            raise EnvironmentLacks("a dry run needs Triton's interpreter", hint="set TRITON_INTERPRET=1")
    timer: Timer = DryTimer() if options.dry_run else GraphTimer()
    record = Record.open(options.output, environment(device) | {"dry_run": options.dry_run})
    run = Run(record, device, timer, options.minutes * 60, options.dry_run)
    try:
        perform(run)
    except KeyboardInterrupt:
        record.save()
        raise Interrupted("stopped; what was measured is kept", where=str(options.output)) from None
    record.body["complete"] = run.complete
    record.body["environment"]["gpu_state_after"] = gpu_state() if device == "cuda" else {}
    record.save()
    print(summary.table(record.body))
    return 1 if record.wrong() or record.body["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
