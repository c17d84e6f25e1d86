"""``kvplan calibrate``: measurements to a latency profile, and what a profile holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvplan.cli.options import FormatOption, OutputFormat

if TYPE_CHECKING:
    from kvplan.latency.fit.measured_part import Measured
    from kvplan.latency.fit.profile_file import ProfileFile

app = typer.Typer(
    name="calibrate",
    invoke_without_command=True,
)

COLUMNS = ("kernel", "fitted_on", "tested_on", "median_error", "p90_error", "band_covers")


@app.callback()
def calibrate(
    context: typer.Context,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            help="Kernel measurements of make gpu (JSON), or tables (Parquet, CSV, a directory); repeatable.",
        ),
    ] = None,
    device: Annotated[
        int | None, typer.Option("--gpu", min=0, help="Measure on this CUDA device first (needs torch).")
    ] = None,
    output_path: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the profile is written.")
    ] = None,
    gpu_spec: Annotated[
        str | None,
        typer.Option("--gpu-spec", help="GPU spec, when the tables name a device kvplan does not know."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the profile (default: the GPU's).")
    ] = None,
    points: Annotated[
        int, typer.Option("--points", min=30, max=2000, help="Most shapes a kernel is fitted on.")
    ] = 120,
    data_source: Annotated[
        str, typer.Option("--source", help="Who measured, as it will be printed.")
    ] = "measurements given by the user",
    data_license: Annotated[str, typer.Option("--license", help="Licence of the measurements.")] = "unknown",
    data_url: Annotated[
        str | None, typer.Option("--url", help="Where the measurements are published.")
    ] = None,
    engine_log: Annotated[
        list[Path] | None,
        typer.Option(
            "--engine-log",
            help="Serving runs of one deployment: requests as CSV or JSON, or what vLLM's, SGLang's or "
            "another benchmark wrote; more than once: all together.",
        ),
    ] = None,
    scenario: Annotated[
        str | None, typer.Option("--scenario", help="The deployment the run was measured on (YAML).")
    ] = None,
    max_in_flight: Annotated[
        list[int] | None,
        typer.Option(
            "--max-in-flight",
            min=0,
            help="The client kept at most this many requests in flight (a closed loop); 0: no limit. Once, "
            "or once for each log.",
        ),
    ] = None,
    output: FormatOption = OutputFormat.table,
) -> None:
    """Fit a latency profile; prints the error on every shape that was not fitted on.

    [bold]kvplan calibrate --from measurements.parquet -o my-gpu.json[/bold]
    fits without a GPU.

    [bold]kvplan calibrate --gpu 0 -o my-gpu.json[/bold]
    measures kvplan's own kernels first and keeps the raw file beside the
    profile. Measured elsewhere: run [bold]make gpu[/bold] there until it says complete,
    bring reports/local/gpu/measurements.json and give it to [bold]--from[/bold].
    Use it with latency: {model: profile, name: my-gpu.json}.

    To publish what you measured: fit with [bold]--name GPU-kvplan --source --license[/bold],
    commit the profile as kvplan/latency/profiles/GPU-kvplan.json, and the raw
    file with what this command printed in reports/kernels-GPU/.

    [bold]kvplan calibrate --engine-log run.csv --scenario s.yaml -o fitted.json[/bold]
    fits what your engine adds: use it with
    latency: {model: fitted, name: fitted.json}. A benchmark that capped
    the requests in flight is recognised, or said with [bold]--max-in-flight[/bold].
    Give [bold]--engine-log[/bold] once for each file of the deployment: a second rate tells
    what one cannot.
    """
    if context.invoked_subcommand is not None:
        return
    from kvplan.cli.output import warn
    from kvplan.errors import UsageError

    if engine_log or scenario is not None:
        from kvplan.cli.engine_fit import fit_engine_log

        if source is not None or device is not None:
            raise UsageError("--engine-log fits an engine, --from and --gpu fit kernels: one at a time")
        fit_engine_log(engine_log or (), scenario, output_path, output, max_in_flight or ())
        return
    if max_in_flight:
        raise UsageError("--max-in-flight is about a serving run", hint="add --engine-log requests.csv")
    if (source is None) == (device is None):
        raise UsageError(
            "say where measurements come from: --from TABLES or --gpu INDEX, one of them",
            hint="kvplan calibrate --from measurements.parquet -o my-gpu.json",
        )
    if output_path is None:
        raise UsageError("say where the profile goes", hint="add -o my-gpu.json")
    from kvplan.cli.files import STANDARD, check_outputs, written

    if str(output_path) == STANDARD:
        raise UsageError("a profile is a file that scenarios name", where="-o", hint="-o my-gpu.json")
    check_outputs({"-o": str(output_path)}, {f"measurements {path}": path for path in source or ()})
    if source is not None:
        typer.echo(f"reading {', '.join(source)}", err=True)
    from kvplan.latency.fit.calibrate import calibrate as fit
    from kvplan.latency.fit.profile_file import profile_text

    if source is None:
        from kvplan.cli.gpu_measure import measure

        source = [str(measure(device or 0, output_path))]
    profile, _ = fit(
        source, gpu=gpu_spec, name=name, points=points, source=data_source, license=data_license,
        url=data_url, progress=lambda title: typer.echo(f"fitted {title}", err=True),
    )  # fmt: skip
    with written(output_path) as stream:
        stream.write(profile_text(profile))
    for note in profile.notes:
        warn(note)
    _print(profile, output)


@app.command("show")
def show(
    profile: Annotated[
        str | None,
        typer.Argument(help="Name of a bundled profile, or a profile file.", show_default=False),
    ] = None,
    output: FormatOption = OutputFormat.table,
) -> None:
    """What a profile holds: its kernels, how well each predicts, and where the measurements come from.

    Without a name: which profiles are bundled.
    """
    from kvplan.errors import SpecError, UnknownName
    from kvplan.latency.fit.profile_file import read_profile
    from kvplan.latency.profile import profile_names, profile_path

    if profile is None:
        _list([read_profile(profile_path(name)) for name in profile_names()], output)
        return
    try:
        found = read_profile(profile_path(profile))
    except UnknownName as exc:  # looked up here for its own sake, not for a scenario's clock
        raise UnknownName("latency profile", profile, profile_names(), hint="or give a profile file") from exc
    except SpecError as exc:
        if "kvplan.engine-fit" in exc.message:
            exc.hint = f"it is a fitted clock: use it with latency: {{model: fitted, name: {profile}}}"
        raise
    _print(found, output)


def _list(profiles: "list[ProfileFile]", output: OutputFormat) -> None:
    from kvplan.cli.output import answer, answer_rows, print_json

    columns = ("name", "gpu", "kernels", "source")
    rows = [(p.name, p.gpu, len(p.kernels), p.provenance.source) for p in profiles]
    if output is OutputFormat.json:
        print_json(
            {
                "schema": "kvplan.profiles/1",
                "profiles": [dict(zip(columns, row, strict=True)) for row in rows],
            }
        )
    elif output is OutputFormat.table:
        lines = [f"{name:<12} {gpu:<12} {count:>3} kernels   {source}" for name, gpu, count, source in rows]
        answer("\n".join([*lines, "", "kvplan calibrate show NAME says what one holds"]))
    else:
        answer_rows(output, columns, rows)


def _print(profile: "ProfileFile", output: OutputFormat) -> None:
    from kvplan.cli.output import answer, answer_rows, print_json

    rows = [_row(profile, index) for index in range(len(profile.kernels))]
    if output is OutputFormat.json:
        kernels = [
            {
                "op": part.op, "labels": part.labels, "fitted_on": part.trained_on,
                "held_out": None if part.held_out is None else part.held_out.model_dump(),
                "low": part.low, "high": part.high, "parameters": part.parameters,
                "measured_with": part.measured_with,
                **({} if part.detail is None else {"detail": part.detail.model_dump()}),
            }
            for part in profile.kernels
        ]  # fmt: skip
        print_json(
            {
                "schema": "kvplan.calibrate/1", "name": profile.name, "gpu": profile.gpu,
                "provenance": profile.provenance.model_dump(), "kernels": kernels, "warnings": profile.notes,
                **({} if profile.measured is None else {"measured": profile.measured.model_dump()}),
            }
        )  # fmt: skip
    elif output is OutputFormat.table:
        answer("\n".join(_table(profile, rows)))
    else:
        answer_rows(output, COLUMNS, rows if output is OutputFormat.csv else [_shown(row) for row in rows])


Row = tuple[str, int, int, float | None, float | None, float | None]
"""A kernel's name, shapes fitted and tested; as shares: median and p90 of errors, what the band covers."""


def _row(profile: "ProfileFile", index: int) -> Row:
    part = profile.kernels[index]
    title = " ".join([part.op, *part.labels.values()])
    held = part.held_out
    if held is None:
        return (title, part.trained_on, 0, None, None, None)
    return (title, held.trained, held.tested, held.median, held.p90, held.coverage)


def _shown(row: Row) -> tuple[str, ...]:
    title, *counts, median, p90, covers = row
    shares = ("" if share is None else f"{share:.1%}" for share in (median, p90, covers))
    return (title, *map(str, counts), *shares)


def _table(profile: "ProfileFile", rows: list[Row]) -> list[str]:
    from textwrap import wrap

    where = profile.provenance
    about = f"Measurements: {where.source}, {where.license}{f', {where.url}' if where.url else ''}."
    lines = [f"Profile {profile.name} of {profile.gpu}: {len(rows)} kernels", *wrap(about, 80), ""]
    lines.append(f"{'fitted':>6}{'tested':>8}{'median':>8}{'p90':>8}{'covers':>8}  kernel")
    for title, fitted, tested, median, p90, covers in map(_shown, rows):
        first, *rest = wrap(title, 40, break_long_words=False)
        lines.append(f"{fitted:>6}{tested:>8}{median:>8}{p90:>8}{covers:>8}  {first}")
        lines += [" " * 40 + text for text in rest]
    about = "Errors are |predicted/measured - 1| on shapes not fitted on; 'covers' is the share of them"
    lines += ["", *wrap(about + " inside the 90 % band.", 80)]
    if profile.measured is not None:
        lines += _machine(profile.measured)
    return lines


def _machine(measured: "Measured") -> list[str]:
    """The registered hold-out and the machine's ceilings, in lines."""
    from textwrap import wrap

    held, ceilings = measured.held_out, measured.ceilings
    text = "Kernels without coverage were scored on points left out in turn."
    if held is not None and held.coverage is not None:
        text += (
            f" Registered hold-out: {held.tested} points, median {held.median:.1%}, "
            f"p90 {held.p90:.1%}, band covers {held.coverage:.1%}."
        )
    rates = [("copy", ceilings.copy_bytes_per_s, "B/s"), ("read", ceilings.read_bytes_per_s, "B/s")]
    rates += [(f"matmul {name}", rate, "FLOP/s") for name, rate in ceilings.matmul_flops.items()]
    shown = [f"{name} {rate / 1e12:.4g} T{unit}" for name, rate, unit in rates if rate is not None]
    shown += [
        f"{host.direction.replace('_', ' ')} {'pinned' if host.pinned else 'pageable'} "
        f"{host.bytes_per_s / 1e9:.3g} GB/s"
        for host in ceilings.host
    ]
    device = measured.environment.get("device", "unknown device")
    return [*wrap(text, 80), *wrap(f"Measured on {device}: {', '.join(shown) or 'no ceilings'}.", 80)]
