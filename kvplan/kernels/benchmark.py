"""Check and time every kernel on this machine's GPU: ``python -m kvplan.kernels.benchmark -o FILE``.

One run: environment, correctness, ceilings, the large decodes, the hold-out and the calibration grid, side
grids, peers. It stops starting new work when its time is up, keeps what it has, and continues where it
stopped when called again with the same file. Checks run in several processes and timing in one more, which
is watched and replaced if a kernel takes it down. The last thing printed is a short table. Exit code 0; 1
when a result was wrong or a kernel failed; 4 without a GPU. ``--tune`` times the choices of ``variants``
instead.

The file is one JSON object, schema ``kvplan.kernel-measurements/1``:

``environment``  versions, device, clocks as found, ``kernels`` (digest of the kernel sources), ``l2_bytes``,
                 ``dry_run`` (true: durations are made up, the file is good for nothing but tests)
``complete``     whether every stage ran to its end
``correctness``  rows ``{key, kind, ok, error, bound, lse_error, message}``; kinds case, write, graph, warm
``ceilings``     rows ``{key, bytes | flops ..., TIMING}``; ``copy`` counts bytes read plus written, ``read``
                 bytes read; ``matmul_*`` carry ``tokens, features_in, features_out``; ``host/*`` direction
                 and pinning; ``launch/*`` seconds of an empty kernel
``points``       rows of ``bench.points.Point`` fields with ``kv_bytes, io_bytes, flops``, what was chosen
                 (``splits, buffers, fused``) and TIMING; ``stage == "holdout"`` is not for fitting
``peers``        rows ``{peer, point fields, timed, TIMING}`` or ``{peer, ..., message}``; ``timed`` is
                 ``graph`` or ``launches``, with the gaps between them
``tuning``       rows ``{point fields, choice, TIMING}`` of ``--tune``
``failures``     rows ``{stage, key, message}``

TIMING is ``median_s, p25_s, p75_s, least_s`` (seconds of one call), ``repetitions, calls_per_repetition``.
Points were timed by CUDA-graph replay over ``buffers`` caches in turn, three times the L2 in all (or
``workload.MOST_BUFFERS`` of them); stage ``warm`` reads one cache again and again.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import torch

from kvplan.errors import EnvironmentLacks, Interrupted, KvplanError
from kvplan.kernels.bench import summary, tune
from kvplan.kernels.bench.environment import environment, gpu_state
from kvplan.kernels.bench.record import Record
from kvplan.kernels.bench.run import DeviceLost, Run, frozen, perform
from kvplan.kernels.bench.timer import DryTimer, GraphTimer, Timer
from kvplan.kernels.bench.watch import LOST_DEVICE, marker_of, watch


def main(arguments: list[str] | None = None) -> int:
    """See the module's docstring."""
    options = _parser().parse_args(arguments)
    try:
        if options.dry_run or options.seconds is not None:
            return measure(options)
        return _watched(options)
    except KvplanError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kvplan.kernels.benchmark", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="measurements, JSON; continued if it exists"
    )
    parser.add_argument("--minutes", type=float, default=7.0, help="stop starting new work after this long")
    parser.add_argument(
        "--tune", action="store_true", help="time tile sizes, warps, stages and splits instead"
    )
    parser.add_argument(
        "--dry-run", action="store_true",
        help="tiny sizes on the CPU, made-up durations: tests all but the speed (set TRITON_INTERPRET=1)",
    )  # fmt: skip
    # What the watching process tells the measuring one.
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--continue", action="store_true", dest="goes_on", help=argparse.SUPPRESS)
    return parser


def _watched(options: argparse.Namespace) -> int:
    if not torch.cuda.is_available():
        raise EnvironmentLacks("there is no CUDA device here", hint="--dry-run tests the plumbing on the CPU")
    marker_of(options.output).unlink(missing_ok=True)
    command = [sys.executable, "-m", "kvplan.kernels.benchmark", "-o", str(options.output)]
    command += ["--tune"] if options.tune else []
    try:
        code = watch(command, options.output, options.minutes * 60)
    except KeyboardInterrupt:
        raise Interrupted("stopped; what was measured is kept", where=str(options.output)) from None
    if code != EnvironmentLacks.exit_code and options.output.is_file():
        body = Record.read(options.output)
        print(tune.table(body) if options.tune else summary.table(body))
    return code


def measure(options: argparse.Namespace) -> int:
    """Measure in this process; the table is printed by the one that watches, or here in a dry run."""
    device = "cpu" if options.dry_run else "cuda"
    if device == "cpu":
        from kvplan.kernels import launch

        if not launch.INTERPRETED:
            raise EnvironmentLacks("a dry run needs Triton's interpreter", hint="set TRITON_INTERPRET=1")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    timer: Timer = DryTimer() if options.dry_run else GraphTimer()
    found = environment(device) | {"dry_run": options.dry_run}
    record = Record.open(options.output, found, retry=not options.goes_on)
    marker = marker_of(options.output)
    if options.goes_on and marker.is_file():
        record.fail("unknown", marker.read_text(), "the process that measured this died, or did not return")
        marker.unlink()
    seconds = options.minutes * 60 if options.seconds is None else options.seconds
    run = Run(record, device, timer, seconds, options.dry_run, None if options.dry_run else marker)
    try:
        with frozen():
            (tune.perform if options.tune else perform)(run)
    except DeviceLost as exc:
        print(f"the device was lost: {exc}", file=sys.stderr)
        return LOST_DEVICE
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            # A terminal tells both processes, and then the one that watches tells this one.
            signal.signal(number, signal.SIG_IGN)
        record.save()
        raise Interrupted("stopped; what was measured is kept", where=str(options.output)) from None
    record.body["complete"] = run.complete
    record.body["environment"]["gpu_state_after"] = gpu_state() if device == "cuda" else {}
    record.save()
    if options.dry_run:
        print(tune.table(record.body) if options.tune else summary.table(record.body))
    return 1 if record.wrong() or record.body["failures"] else 0


if __name__ == "__main__":
    # Whoever ends this process, a time limit or the process that watches it, lets it save first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
