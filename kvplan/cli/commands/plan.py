"""``kvplan plan``: the cheapest deployment that meets the objectives."""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvplan.cli import simulation as option
from kvplan.cli.choices import DEFAULT_TP, choices
from kvplan.cli.options import FormatOption, OutputFormat, gpu_names
from kvplan.errors import AnswerIsNo, Interrupted, KvplanError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvplan.reporting.schema.plan import Plan as Document


def plan(
    scenario: option.ScenarioFile = None,
    model: option.Model = None,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", autocompletion=gpu_names, help="GPUs to choose from: h100-sxm,a100-80g."),
    ] = None,
    tp: Annotated[
        str | None,
        typer.Option("--tp", help=f"Tensor parallelism to choose from [{DEFAULT_TP}].", show_default=False),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option("--vary", help="More to choose from: cache.dtype=bf16,fp8. Sizes are searched."),
    ] = None,
    price: option.Price = None,
    most_gpus: Annotated[
        int, typer.Option("--most-gpus", min=1, max=4096, metavar="N", help="GPUs of a deployment.")
    ] = 64,
    engine: option.Engine = None,
    ctx: option.Context = None,
    dtype: option.Dtype = None,
    weights_dtype: option.WeightsDtype = None,
    trace: option.Trace = None,
    synthesize: option.Synthesize = None,
    requests: option.Limit = None,
    rate: option.Rate = None,
    max_in_flight: option.MaxInFlight = None,
    latency: option.Latency = None,
    seed: option.Seed = None,
    longest: Annotated[
        int | None,
        typer.Option(
            "--longest",
            min=1,
            metavar="N",
            help="Requests up to which a synthetic workload is lengthened (64 times, or 50,000).",
        ),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any scenario field; objectives: slo.ttft_p99_s=1, slo.tpot_p99_s=0.05."),
    ] = None,
    jobs: option.Jobs = None,
    output: Annotated[str | None, typer.Option("-o", "--output", help="Write the plan as JSON.")] = None,
    html: Annotated[str | None, typer.Option("--html", help="Write the plan as an HTML page.")] = None,
    quiet: option.Quiet = False,
    format: FormatOption = OutputFormat.table,
) -> None:
    """Which GPUs to rent: of each kind the fewest replicas that meet every objective, cheapest first.

    Without prices the fewest GPUs win. Exit code 3: no candidate meets the objectives.
    """
    flags = option.fields(locals())
    from kvplan.cli.commands.report import write_html
    from kvplan.cli.files import check_outputs, read_by
    from kvplan.cli.interrupts import Interrupts
    from kvplan.cli.output import warn, write_document
    from kvplan.cli.progress import cpus, simulations
    from kvplan.reporting.schema.plan import Plan as Document
    from kvplan.scenario.load import read_scenario
    from kvplan.scenario.plan import Plan
    from kvplan.scenario.plannable import without_sizes
    from kvplan.scenario.sweep import Sweep

    document = read_scenario(scenario)
    data, sizes = without_sizes(document.data)
    for field in sizes:
        warn(f"{field} of the scenario is not used: a plan seeks it")
    document = replace(document, data=data)
    chosen = choices(document, gpu=gpu, tp=tp, assignments=assign or [], varied=vary or [])
    flags |= {"gpu": None, "parallel.tp": None}
    kinds = Sweep(document, chosen, flags=flags, assignments=assign or [], count=requests)
    planned = Plan(kinds, most_gpus=most_gpus, longest=longest)
    standard = check_outputs({"-o": output, "--html": html}, read_by(scenario, kinds.scenarios))
    stopped: Interrupted | None = None
    try:
        with Interrupts():
            planned.execute(jobs or cpus(), None if quiet else simulations(None))
    except Interrupted as exc:
        stopped = exc
    found = Document.model_validate(planned.document(["kvplan", *sys.argv[1:]]))
    write_document(found.document(), output)
    write_html(found, html)
    if standard is None:
        _print(found, format)
    if stopped is not None:
        place = f"in {output}" if output not in (None, "-") else "above"
        raise Interrupted(f"the plan was interrupted; what was found until then is {place}")
    _judge(found)


def _print(found: "Document", format: OutputFormat) -> None:
    from kvplan.cli.output import answer, print_json, stdout_console
    from kvplan.cli.printed_plan import print_plan
    from kvplan.reporting.plan import plan_csv, plan_markdown

    if format is OutputFormat.json:
        print_json(found.document())
    elif format is OutputFormat.csv:
        answer(plan_csv(found))
    elif format is OutputFormat.md:
        answer(plan_markdown(found))
    else:
        print_plan(found, stdout_console())


def _judge(found: "Document") -> None:
    """The exit code: everything was printed."""
    if found.best is not None:
        return
    errors: list[Mapping[str, Any]] = [item.error.model_dump() for item in found.candidates if item.error]
    broken = [error for error in errors if error["exit_code"] != AnswerIsNo.exit_code]
    if broken and len(errors) == len(found.candidates):
        raise KvplanError(f"{len(broken)} of {len(errors)} candidates failed", hint="the reasons are above")
    raise AnswerIsNo("no candidate meets every objective", hint=_what_would(found))


def _what_would(found: "Document") -> str:
    """Where nothing was simulated, or nothing serves all, more replicas of it are no help."""
    figures = [item.figures for item in found.candidates if item.figures]
    if figures and all(item.rejected for item in figures):
        return (
            "allow longer requests (--ctx), if the model reaches so far, or take a workload of shorter ones"
        )
    if figures:
        return "the figures above are of the most GPUs tried: allow more (--most-gpus), or ask for less"
    if any(item.least_gpus > found.most_gpus for item in found.candidates):
        return "allow more GPUs (--most-gpus), or spread a replica over fewer (--tp)"
    return "spread a replica over more GPUs (--tp), or store weights in fewer bits (--weights-dtype)"
