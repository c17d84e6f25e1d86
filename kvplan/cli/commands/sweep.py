"""``kvplan sweep``: one scenario at every combination of a few values."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvplan.cli import simulation as option
from kvplan.cli.options import FormatOption, OutputFormat
from kvplan.errors import AnswerIsNo, Interrupted, KvplanError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def sweep(
    scenario: option.ScenarioFile = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary", help="A field and its values: cache.eviction=lru,lfu or cache.blocks=1000..4000:1000."
        ),
    ] = None,
    highest: Annotated[
        str | None,
        typer.Option(
            "--highest", help="Instead: search the highest value that meets the SLO: workload.rate=0.5..64."
        ),
    ] = None,
    longest: Annotated[
        int | None,
        typer.Option(
            "--longest",
            min=1,
            metavar="N",
            help="Requests up to which --highest lengthens a synthetic workload (64 times, or 50,000).",
        ),
    ] = None,
    model: option.Model = None,
    gpu: option.Gpu = None,
    engine: option.Engine = None,
    tp: option.Tp = None,
    pp: option.Pp = None,
    ctx: option.Context = None,
    dtype: option.Dtype = None,
    weights_dtype: option.WeightsDtype = None,
    utilization: option.Utilization = None,
    max_num_seqs: option.MaxNumSeqs = None,
    max_num_batched_tokens: option.MaxNumBatchedTokens = None,
    blocks: option.Blocks = None,
    block_size: option.BlockSize = None,
    trace: option.Trace = None,
    synthesize: option.Synthesize = None,
    requests: option.Limit = None,
    rate: option.Rate = None,
    max_in_flight: option.MaxInFlight = None,
    latency: option.Latency = None,
    price: option.Price = None,
    seed: option.Seed = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="Any scenario field, the same at every point.")
    ] = None,
    jobs: option.Jobs = None,
    output: Annotated[str | None, typer.Option("-o", "--output", help="Write the sweep as JSON.")] = None,
    html: Annotated[str | None, typer.Option("--html", help="Write the sweep as an HTML page.")] = None,
    quiet: option.Quiet = False,
    format: FormatOption = OutputFormat.table,
) -> None:
    """Simulate a scenario at every combination of the values varied, and compare: one row a point.

    A point that fails is a row with its reason. Exit code 3: no point fits,
    or none that was searched meets the SLO; 1: a point failed otherwise.
    """
    flags = option.fields(locals())
    from kvplan.cli.choices import check_rivals
    from kvplan.cli.commands.report import write_html
    from kvplan.cli.files import check_outputs, read_by
    from kvplan.cli.interrupts import Interrupts
    from kvplan.cli.output import write_document
    from kvplan.cli.progress import cpus, simulations
    from kvplan.errors import UsageError
    from kvplan.scenario.axes import parse_axis
    from kvplan.scenario.highest import Search, parse_bounds
    from kvplan.scenario.sweep import Sweep

    axes = [parse_axis(text) for text in vary or []]
    planned: Sweep | Search
    if highest is None:
        if longest is not None:
            raise UsageError("--longest belongs to --highest", hint="say how many requests with -n")
        check_rivals([(f"--vary {axis.key}", axis.key, axis.values) for axis in axes], flags, assign or [])
        planned = Sweep(scenario, axes, flags=flags, assignments=assign or [], count=requests)
        planned.check_rate()
        total = len(planned.points)
    elif axes:
        raise UsageError("--vary and --highest exclude each other", hint="give one of them")
    else:
        bounds = parse_bounds(highest)
        planned = Search(
            scenario, bounds, flags=flags, assignments=assign or [], count=requests, longest=longest
        )
        total = None
    standard = check_outputs({"-o": output, "--html": html}, read_by(scenario, planned.scenarios))
    stopped: Interrupted | None = None
    try:
        with Interrupts():
            planned.execute(jobs or cpus(), None if quiet else simulations(total))
    except Interrupted as exc:
        stopped = exc
    document = planned.document(["kvplan", *sys.argv[1:]])
    write_document(document, output)
    if html is not None:
        from kvplan.reporting.schema.sweep import Sweep as Document

        write_html(Document.model_validate(document), html)
    _print(document, format, standard)
    if stopped is not None:
        place = f"in {output}" if output not in (None, "-") else "above"
        raise Interrupted(f"the sweep was interrupted; the points done until then are {place}")
    _judge([point["error"] for point in document["points"]])
    if isinstance(planned, Search):
        if planned.passed is None and planned.met_above is not None:
            raise UsageError(
                f"more {planned.bounds.key} is better here: no highest value meets the objectives",
                where="--highest", hint="search a kind of load (workload.rate), or list values with --vary",
            )  # fmt: skip
        if planned.passed is None:
            raise AnswerIsNo(
                f"no {planned.bounds.key} from {planned.bounds.low:g} on meets every objective",
                hint=_what_else(document["points"]),
            )


def _what_else(points: "Sequence[Mapping[str, Any]]") -> str:
    """What to do where no load meets its objectives: requests that are too long are so at any."""
    least = min(points, key=lambda point: next(iter(point["values"].values())))
    rejected = (least["figures"] or {}).get("rejected")
    if not rejected:
        return "look lower, or see the figures above for what is missed"
    return (
        f"{rejected:,} requests are rejected even there, and no lower load serves them: kvplan simulate says "
        "why; longer ones need a larger --ctx or pool"
    )


def _print(document: dict[str, Any], format: OutputFormat, standard: str | None) -> None:
    from kvplan.cli.output import answer, print_json, stdout_console
    from kvplan.cli.printed_sweep import print_sweep
    from kvplan.reporting.schema.sweep import Sweep as Document
    from kvplan.reporting.sweep import sweep_csv
    from kvplan.reporting.sweep_text import sweep_markdown

    if standard is not None:
        return  # -o - printed the document, which is the answer
    if format is OutputFormat.json:
        print_json(document)
    elif format is OutputFormat.csv:
        answer(sweep_csv(document))
    elif format is OutputFormat.md:
        answer(sweep_markdown(Document.model_validate(document)))
    else:
        print_sweep(Document.model_validate(document), stdout_console())


def _judge(points: "Sequence[Mapping[str, Any] | None]") -> None:
    """Errors of the points, or None, for the exit code: all rows were printed."""
    errors = [error for error in points if error is not None]
    broken = [error for error in errors if error["exit_code"] != AnswerIsNo.exit_code]
    if broken:
        raise KvplanError(
            f"{len(errors)} of {len(points)} points failed", hint="the reasons are in their rows"
        )
    if len(errors) == len(points):
        raise AnswerIsNo("no point fits", hint="the reasons are in the rows")
