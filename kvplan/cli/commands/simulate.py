"""``kvplan simulate``: replay traffic against a deployment."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import IO, TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from kvplan.cli import simulation as option
from kvplan.cli.options import FormatOption, OutputFormat
from kvplan.errors import AnswerIsNo, Interrupted, KvplanError

if TYPE_CHECKING:
    from kvplan.engine.recorder import RequestRow
    from kvplan.reporting.result import Result
    from kvplan.scenario.rows import RowWriter
    from kvplan.scenario.schema import Scenario

T = TypeVar("T")


def simulate(
    scenario: option.ScenarioFile = None,
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
    trace: Annotated[str | None, typer.Option("--trace", help="Trace file to replay; - is stdin.")] = None,
    synthesize: option.Synthesize = None,
    requests: option.Limit = None,
    rate: option.Rate = None,
    max_in_flight: option.MaxInFlight = None,
    latency: option.Latency = None,
    price: option.Price = None,
    seed: option.Seed = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="Any scenario field, e.g. engine.max_num_seqs=64.")
    ] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", help="Write the result JSON.")] = None,
    rows: Annotated[
        str | None, typer.Option("--requests", help="Write one row per request (.jsonl, .csv, .parquet).")
    ] = None,
    decisions: Annotated[
        str | None,
        typer.Option("--decisions", help="Write one line per engine step (slower); the form is above."),
    ] = None,
    html: Annotated[str | None, typer.Option("--html", help="Write the HTML report.")] = None,
    ladder: Annotated[
        bool, typer.Option("--ladder", help="Add what holds the hit ratio back: policy or capacity.")
    ] = False,
    reference: Annotated[
        bool, typer.Option("--reference", help="Block by block: the same decisions, slowly.")
    ] = False,
    print_scenario: Annotated[
        bool, typer.Option("--print-scenario", help="Print the resolved scenario and stop.")
    ] = False,
    quiet: option.Quiet = False,
    format: FormatOption = OutputFormat.table,
) -> None:
    """Replay a trace or a synthetic workload against a deployment and say what happens to its KV cache.

    Exit code 3 means that the engine would not start, that no request could
    be served, or that an SLO of the scenario was missed.

    A line of --decisions is request=tokens,...|free|running|waiting|preempted:
    free blocks (SGLang: tokens), and numbers of requests. Of several engines
    each line begins with the engine's number.
    """
    flags = option.fields(locals())
    from kvplan.cli.files import check_outputs, read_by
    from kvplan.scenario.load import dump_scenario, load_scenario

    resolved = load_scenario(scenario, flags, assign or [], count=requests)
    if print_scenario:
        _print_scenario(resolved.to_dict(), dump_scenario(resolved), format)
        return
    standard = check_outputs(
        {"-o": output, "--requests": rows, "--decisions": decisions, "--html": html},
        read_by(scenario, [resolved]),
    )
    _check_format(standard, format)
    run = _Simulation(
        resolved, "reference" if reference else "fast", rows, decisions, quiet=quiet, ladder=ladder
    )
    _write(run.result, output, html)
    if run.failure is not None:
        raise run.failure
    _print(run.result, format, standard)
    if not run.result.complete:
        place = "above" if output in (None, "-") else f"in {output}, marked incomplete"
        raise Interrupted(f"the simulation was interrupted; what was done until then is {place}")
    _refuse(run.result)
    if run.result.totals.requests and not run.result.totals.finished:
        raise AnswerIsNo(
            f"none of the {run.result.totals.requests:,} requests can be served",
            hint="every client gave up before it was answered"
            if run.result.totals.timed_out == run.result.totals.requests
            else "the result's warnings say why each was turned away",
        )
    missed = [item.name for item in run.result.slo if not item.passed]
    if missed:
        raise AnswerIsNo(f"SLO missed: {', '.join(missed)}", hint="see the result for the values reached")


def _refuse(result: "Result") -> None:
    """Say no where the engine would not start, as ``kvplan fit`` does of the same deployment.

    What was simulated is an engine without that check: its figures answer another question.
    """
    bill = result.memory
    if bill is None or bill.starts or bill.max_concurrency_context is None:
        return
    from kvplan.scenario.hardware import refuse_start

    raise refuse_start(bill.max_concurrency_context, bill.longest_request)


def _print_scenario(document: dict[str, Any], text: str, format: OutputFormat) -> None:
    from kvplan.cli.output import print_json
    from kvplan.errors import UsageError

    if format is OutputFormat.json:
        print_json(document)
    elif format is OutputFormat.table:
        sys.stdout.write(text)
    else:
        raise UsageError(f"a scenario is not printed as {format}", hint="say json, or leave --format out")


def _check_format(standard: str | None, format: OutputFormat) -> None:
    """Standard output holds one thing: the summary goes to stderr when an option claimed it."""
    from kvplan.errors import UsageError

    if standard is None or format is OutputFormat.table or (standard == "-o" and format is OutputFormat.json):
        return
    raise UsageError(
        f"standard output cannot hold {standard} and the answer as {format}",
        hint=f"name a file for {standard}, or leave --format out (the summary then goes to stderr)",
    )


class _Simulation:
    """One executed run: its result, complete or not, and what stopped it."""

    def __init__(
        self,
        scenario: "Scenario",
        engine: str,
        rows: str | None,
        decisions: str | None,
        *,
        quiet: bool,
        ladder: bool = False,
    ) -> None:
        from kvplan.cli.interrupts import Interrupts
        from kvplan.cli.progress import Progress
        from kvplan.reporting.result import Result
        from kvplan.scenario.run import Run

        run = Run(scenario, engine=engine)
        if ladder:
            from kvplan.scenario.ladder import check_ladder

            check_ladder(run)
        self.failure: KvplanError | OSError | None = None
        files = _Files(rows, decisions)
        with Interrupts() as interrupts:
            # Closing a file writes what is left in its buffer and can fail as writing can.
            try:
                with files, Progress(run.workload.expected, quiet=quiet) as progress:
                    run.execute(
                        on_start=files.open,
                        on_request=files.row if rows else None,
                        on_decision=files.line if decisions else None,
                        on_progress=progress.update if progress.live else None,
                        held=interrupts.held,
                    )
            except (KvplanError, OSError) as exc:
                if not files.opened:
                    raise  # there is no run to tell of
                self.failure = exc
                run.interruption = run.interruption or str(exc)
            if ladder and run.interruption is None:
                from kvplan.scenario.ladder import add_ladder

                try:
                    add_ladder(run)
                except KeyboardInterrupt:
                    run.interruption = "interrupted by the user while the ladder was climbed"
        with Progress(None, quiet=quiet) as progress:
            document = run.result(
                ["kvplan", *sys.argv[1:]], on_member=progress.member if progress.live else None
            )
        self.result: Result = Result.model_validate(document)


class _Files(ExitStack):
    """What a run writes while it goes on: requests and decisions, each if asked for."""

    def __init__(self, rows: str | None, decisions: str | None) -> None:
        super().__init__()
        self.opened = False
        self._paths = rows, decisions
        self._rows: RowWriter | None = None
        self._log: IO[str] | None = None

    def open(self) -> None:
        """Begin the files: not before the engine has taken the scenario, for a refusal writes nothing."""
        from kvplan.scenario.rows import RowWriter

        rows, decisions = self._paths
        if rows:
            self._rows = self.enter_context(_naming(RowWriter(rows), rows))
        if decisions:
            self._log = self.enter_context(_naming(_open_log(decisions), decisions))
        self.opened = True

    def row(self, row: "RequestRow") -> None:
        """Write one request."""
        assert self._rows is not None
        self._rows.write(row)

    def line(self, line: str) -> None:
        """Write one line of the log."""
        assert self._log is not None
        self._log.write(f"{line}\n")


@contextmanager
def _naming(opened: AbstractContextManager[T], path: str) -> Iterator[T]:
    """Say of which file an error of writing or closing is."""
    try:
        with opened as stream:
            yield stream
    except OSError as exc:
        exc.filename = exc.filename or path
        raise


def _open_log(path: str) -> AbstractContextManager[IO[str]]:
    return nullcontext(sys.stdout) if path == "-" else open(path, "w", encoding="utf-8", newline="\n")


def _write(result: "Result", output: str | None, html: str | None) -> None:
    from kvplan.cli.files import written
    from kvplan.reporting.result import result_json

    if output == "-":
        sys.stdout.write(result_json(result) + "\n")
    elif output is not None:
        with written(output) as stream:
            stream.write(result_json(result) + "\n")
        sys.stderr.write(f"wrote {output}{'' if result.complete else ' (incomplete)'}\n")
    if html is not None:
        from kvplan.cli.commands.report import write_html

        write_html(result, html)


def _print(result: "Result", format: OutputFormat, standard: str | None) -> None:
    if format is OutputFormat.table:
        from kvplan.cli.output import stderr_console, stdout_console
        from kvplan.reporting.console import summary_table

        console = stdout_console() if standard is None else stderr_console()
        console.print(summary_table(result))
    elif standard == "-o":
        return  # the answer as JSON is what -o - printed
    elif format is OutputFormat.json:
        from kvplan.reporting.result import result_json

        sys.stdout.write(result_json(result) + "\n")
    elif format is OutputFormat.csv:
        from kvplan.reporting.result_csv import result_csv

        sys.stdout.write(result_csv(result))
    else:
        from kvplan.reporting.markdown import render_markdown

        sys.stdout.write(render_markdown(result))
