"""``kvplan trace``: describe, convert and synthesize request traces."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from kvplan.cli.files import STANDARD, written
from kvplan.cli.options import FormatOption, OutputFormat, SeedOption

if TYPE_CHECKING:
    from kvplan.traces.accounting import Accounting
    from kvplan.traces.request import Request
    from kvplan.traces.trace import Trace

app = typer.Typer(no_args_is_help=True, help="Describe, convert and synthesize request traces.")

TraceFormatOption = Annotated[
    str, typer.Option("--trace-format", help="Format of the trace; see `kvplan trace formats`.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Use the first N requests only.")]
BlockSizeOption = Annotated[
    int | None, typer.Option("--block-size", help="Tokens per block id of the trace, if not the usual.")
]
TimeScaleOption = Annotated[float, typer.Option("--time-scale", help="Multiply every time by this.")]
RateScaleOption = Annotated[float, typer.Option("--rate-scale", help="2 means twice the request rate.")]
SmoothOption = Annotated[
    bool, typer.Option("--smooth", help="Spread requests that arrive together over the gap that follows.")
]
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse the first bad row; do not drop it.")]
ClampOption = Annotated[
    bool, typer.Option("--clamp-outputs", help="Raise zero-token answers to 1 token; do not drop the row.")
]
SortOption = Annotated[
    str, typer.Option("--sort", help="window: sort on the way; full: sort in memory first.")
]
RateOption = Annotated[
    float | None,
    typer.Option("--rate", help="Requests per second: of a workload, or where a trace has no times."),
]

ToOption = Annotated[
    str | None,
    typer.Option("--to", help="mooncake, tokens or csv. Default: csv for a file .csv, else mooncake."),
]


@app.command()
def describe(
    trace: Annotated[
        str,
        typer.Argument(metavar="TRACE", help="Trace file, directory, archive, `-`, or a bundled workload."),
    ],
    trace_format: TraceFormatOption = "auto",
    limit: LimitOption = None,
    block_size: BlockSizeOption = None,
    time_scale: TimeScaleOption = 1.0,
    rate_scale: RateScaleOption = 1.0,
    smooth: SmoothOption = False,
    strict: StrictOption = False,
    clamp_outputs: ClampOption = False,
    sort: SortOption = "window",
    rate: RateOption = None,
    seed: SeedOption = 0,
    reuse_block: Annotated[
        int | None,
        typer.Option("--reuse-block", help="Tokens per block of the cache. Default: the trace's, or 16."),
    ] = None,
    lru: Annotated[bool, typer.Option(help="Find the hit ratio of LRU caches of several sizes.")] = True,
    output: FormatOption = OutputFormat.table,
) -> None:
    """Say what TRACE holds: rows and what became of them, rates, lengths, and how much content repeats."""
    from kvplan.cli.progress import reading
    from kvplan.cli.trace_answers import print_description
    from kvplan.traces.statistics import DEFAULT_BLOCK_SIZE, measure, measure_trace

    _check_block(reuse_block)
    if _is_workload(trace):
        _refuse_for_workloads(
            trace, trace_format=trace_format, block_size=block_size, time_scale=time_scale,
            rate_scale=rate_scale, smooth=smooth, strict=strict, clamp_outputs=clamp_outputs, sort=sort,
        )  # fmt: skip
        requests = _synthetic(trace, limit, rate, seed)
        block = reuse_block or DEFAULT_BLOCK_SIZE
        found = measure(requests, block_size=block, lru=lru)
        document = {
            "schema": "kvplan.trace/1",
            "trace": {"name": trace, "format": "workload", "block_size": block, "reuse_known": True},
            "accounting": None,
            "statistics": found.to_dict(),
        }
    else:
        opened = _open(
            trace,
            trace_format,
            limit=limit,
            block_size=block_size,
            time_scale=time_scale,
            rate_scale=rate_scale,
            smooth=smooth,
            strict=strict,
            clamp_outputs=clamp_outputs,
            sort=sort,
            rate=rate,
            seed=seed,
        )
        found = measure_trace(opened, block_size=reuse_block, lru=lru, watch=reading)
        document = {
            "schema": "kvplan.trace/1",
            "trace": {
                "name": opened.name,
                "format": opened.format,
                "block_size": opened.block_size,
                "reuse_known": opened.reuse_known,
            },
            "accounting": opened.report.to_dict(),
            "statistics": found.to_dict(),
        }
    print_description(document, output)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Trace to read, or `-`.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="File to write, or `-`.")],
    to: ToOption = None,
    trace_format: TraceFormatOption = "auto",
    limit: LimitOption = None,
    block_size: BlockSizeOption = None,
    to_block: Annotated[
        int | None, typer.Option("--to-block", help="Tokens per block id written. Default: as read, or 16.")
    ] = None,
    time_scale: TimeScaleOption = 1.0,
    rate_scale: RateScaleOption = 1.0,
    smooth: SmoothOption = False,
    strict: StrictOption = False,
    clamp_outputs: ClampOption = False,
    sort: SortOption = "window",
    rate: RateOption = None,
    seed: SeedOption = 0,
    output: FormatOption = OutputFormat.table,
) -> None:
    """Rewrite trace IN as OUT in another format, and say what was dropped and what the format lost."""
    from kvplan.cli.progress import reading
    from kvplan.cli.trace_answers import print_written
    from kvplan.traces.statistics import DEFAULT_BLOCK_SIZE
    from kvplan.traces.write import reblocked, writer

    to = _check_target("OUT", target, to)
    write = writer(to)
    _check_block(to_block)
    opened = _open(
        source,
        trace_format,
        limit=limit,
        block_size=block_size,
        time_scale=time_scale,
        rate_scale=rate_scale,
        smooth=smooth,
        strict=strict,
        clamp_outputs=clamp_outputs,
        sort=sort,
        rate=rate,
        seed=seed,
    )
    requests = reading(opened.requests())
    block = to_block or opened.block_size or DEFAULT_BLOCK_SIZE
    losses = _write(target, lambda stream: write(requests, stream, block_size=block))
    if to == "mooncake" and opened.block_size is not None:
        losses += reblocked(opened.block_size, block)
    print_written(target, to, opened.report, losses, output)


@app.command()
def synthesize(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Workload: chat, rag, agentic or fixed.")],
    requests: Annotated[int, typer.Option("--requests", "-n", help="How many requests.")] = 2_000,
    rate: Annotated[float, typer.Option("--rate", help="Requests per second, on average.")] = 10.0,
    seed: SeedOption = 0,
    target: Annotated[str, typer.Option("--output", "-o", help="File to write, or `-`.")] = "-",
    to: ToOption = None,
    block_size: Annotated[int, typer.Option("--block-size", help="Tokens per block id written.")] = 16,
    arrivals: Annotated[
        str, typer.Option("--arrivals", help="poisson, gamma, weibull or constant.")
    ] = "poisson",
    burstiness: Annotated[
        float, typer.Option("--burstiness", help="Shape of gamma and weibull gaps: below 1 is bursty.")
    ] = 1.0,
    input_tokens: Annotated[
        str | None,
        typer.Option("--input-tokens", help="Lengths of questions: 1024, uniform:1-9, lognormal:400,1.1 ..."),
    ] = None,
    output_tokens: Annotated[
        str | None, typer.Option("--output-tokens", help="Lengths of answers, written the same way.")
    ] = None,
    output: FormatOption = OutputFormat.table,
) -> None:
    """Write requests of the bundled workload NAME, the same for the same seed."""
    from kvplan.cli.trace_answers import print_written
    from kvplan.traces.accounting import Accounting
    from kvplan.traces.synthesize import synthesize as draw
    from kvplan.traces.write import writer

    to = _check_target("-o", target, to)
    write = writer(to)
    _check_block(block_size)
    found = draw(
        name,
        requests,
        rate,
        seed,
        arrivals=arrivals,
        shape=burstiness,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
    )
    report = Accounting(f"workload {name}")
    losses = _write(target, lambda stream: write(_counted(found, report), stream, block_size=block_size))
    print_written(target, to, report, losses, output)


@app.command()
def ladder(
    trace: Annotated[
        str,
        typer.Argument(metavar="TRACE", help="Trace file, directory, archive, `-`, or a bundled workload."),
    ],
    blocks: Annotated[
        list[int], typer.Option("--blocks", min=1, help="Blocks of the cache; may be given several times.")
    ],
    block_size: Annotated[int, typer.Option("--block-size", help="Tokens per block of the cache.")] = 16,
    trace_format: TraceFormatOption = "auto",
    limit: LimitOption = None,
    trace_block: Annotated[
        int | None, typer.Option("--trace-block", help="Tokens per block id of the trace, if not the usual.")
    ] = None,
    sort: SortOption = "window",
    rate: RateOption = None,
    seed: SeedOption = 0,
    output: FormatOption = OutputFormat.table,
) -> None:
    """Find what holds the hit ratio of a cache back: every eviction policy, the optimum and the bound.

    The prompts of TRACE go through a prefix cache one at a time, without clock, batch or answers.
    """
    from kvplan.cli.ladder_answers import ladder_document, print_ladder
    from kvplan.cli.progress import reading
    from kvplan.engine.cache_replay import collect
    from kvplan.engine.ladder import climb
    from kvplan.errors import DataError

    _check_block(block_size)
    books = None
    if _is_workload(trace):
        origin: dict[str, Any] = {"name": trace, "format": "workload", "block_size": None}
        references = collect(_synthetic(trace, limit, rate, seed), block_size)
    else:
        opened = _open(
            trace, trace_format, limit=limit, block_size=trace_block, sort=sort, rate=rate, seed=seed
        )  # fmt: skip
        references = collect(reading(opened.requests()), block_size)
        if not opened.reuse_known:
            raise DataError(
                "the trace does not say what its prompts contain, so no cache can be judged by it",
                where=opened.name,
                hint="use a trace with block ids, or a bundled workload",
            )
        origin = {"name": opened.name, "format": opened.format, "block_size": opened.block_size}
        books = opened.report.to_dict()
    rungs = climb(references, sorted(set(blocks)))
    print_ladder(ladder_document(origin, references, rungs, books), output)


@app.command()
def formats(output: FormatOption = OutputFormat.table) -> None:
    """List the trace formats that are read and written, and the bundled workloads."""
    from kvplan.cli.output import answer, answer_rows, print_json
    from kvplan.cli.trace_answers import wrapped
    from kvplan.traces import formats as known
    from kvplan.traces.workloads import WORKLOADS
    from kvplan.traces.write import WRITERS

    rows = [
        ("format", name, "read, write" if name in WRITERS else "read", form.summary, form.example)
        for name, form in ((name, known.get(name)) for name in known.names())
    ]
    rows += [("workload", name, "synthesize", item.summary, "") for name, item in WORKLOADS.items()]
    columns = ("kind", "name", "use", "summary", "example")
    if output is OutputFormat.json:
        print_json(
            {
                "schema": "kvplan.trace-formats/1",
                "entries": [dict(zip(columns, row, strict=True)) for row in rows],
            }
        )
    elif output is OutputFormat.table:
        lines = []
        for _, name, use, summary, example in rows:
            lines.append(wrapped(f"{name:<9} {use:<12} ", summary))
            lines += [wrapped("    ", line) for line in example.splitlines()]
        answer("\n".join(lines))
    else:
        answer_rows(output, columns, rows)


def _open(path: str, trace_format: str, **options: Any) -> "Trace":
    from kvplan.errors import DataError
    from kvplan.traces.trace import open_trace
    from kvplan.traces.workloads import WORKLOADS

    if path != "-" and not (path and Path(path).exists()):
        raise DataError(
            "no such trace file", where=path, hint=f"bundled workloads: {', '.join(sorted(WORKLOADS))}"
        )
    return open_trace(path, format=trace_format, **options)


def _is_workload(name: str) -> bool:
    from kvplan.traces.workloads import WORKLOADS

    return name in WORKLOADS and not Path(name).exists()


def _synthetic(name: str, requests: int | None, rate: float | None, seed: int) -> "Iterator[Request]":
    from kvplan.traces.synthesize import synthesize as draw

    return draw(name, 2_000 if requests is None else requests, 10.0 if rate is None else rate, seed)


def _refuse_for_workloads(name: str, **given: object) -> None:
    """Options that read a file mean nothing to a workload; ignoring them would hide a mistake."""
    from kvplan.errors import UsageError

    for option, value in given.items():
        if value is True or value not in (None, False, "auto", "window", 1.0):
            raise UsageError(
                f"--{option.replace('_', '-')} is for trace files; {name} is a bundled workload",
                hint="leave it out, or write the workload to a file first: kvplan trace synthesize",
            )


def _counted(requests: "Iterator[Request]", report: "Accounting") -> "Iterator[Request]":
    for request in requests:
        report.rows += 1
        report.requests += 1
        yield request


def _check_block(block_size: int | None) -> None:
    from kvplan.errors import UsageError
    from kvplan.traces.formats.contract import MAX_BLOCK_SIZE

    if block_size is not None and not 1 <= block_size <= MAX_BLOCK_SIZE:
        raise UsageError(f"the block size must be between 1 and {MAX_BLOCK_SIZE:,}, not {block_size}")


def _check_target(option: str, target: str, to: str | None) -> str:
    """The format to write: as said, or by the name of the file, which must not promise another."""
    from kvplan.cli.files import check_outputs
    from kvplan.errors import UsageError

    check_outputs({option: target}, {})
    suffix = Path(target).suffix.lower()
    if suffix in (".gz", ".zst", ".xz", ".bz2", ".zip", ".parquet", ".xlsx"):
        raise UsageError(
            f"a trace is written as plain text, not as {suffix}",
            where=target,
            hint="end the name in .jsonl or .csv, and compress the file afterwards",
        )
    return to or ("csv" if suffix == ".csv" else "mooncake")


def _write(target: str, write: Callable[[IO[str]], list[str]]) -> list[str]:
    """Write to a file that appears whole or not at all, or to stdout."""
    if target == STANDARD:
        return write(sys.stdout)
    with written(target) as stream:
        return write(stream)
