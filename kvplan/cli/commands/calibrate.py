"""``kvplan calibrate``: measurements to a latency profile, and what a profile holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvplan.cli.options import FormatOption, OutputFormat

if TYPE_CHECKING:
    from kvplan.latency.fit.profile_file import ProfileFile

app = typer.Typer(
    name="calibrate",
    help="Fit a latency profile from measured kernel times.",
    invoke_without_command=True,
)

COLUMNS = ("kernel", "fitted_on", "tested_on", "median_error", "p90_error", "band_covers")


@app.callback()
def calibrate(
    context: typer.Context,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from", help="Table of measurements (Parquet, CSV) or a directory of them; repeatable."
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
        int, typer.Option("--points", min=20, max=2000, help="Most shapes a kernel is fitted on.")
    ] = 120,
    data_source: Annotated[
        str, typer.Option("--source", help="Who measured, as it will be printed.")
    ] = "measurements given by the user",
    data_license: Annotated[str, typer.Option("--license", help="Licence of the measurements.")] = "unknown",
    data_url: Annotated[
        str | None, typer.Option("--url", help="Where the measurements are published.")
    ] = None,
    output: FormatOption = OutputFormat.table,
) -> None:
    """Fit a latency profile; prints the error on every shape that was not fitted on.

    [bold]kvplan calibrate --from measurements.parquet -o my-gpu.json[/bold] fits without a GPU.
    [bold]kvplan calibrate --gpu 0 -o my-gpu.json[/bold] measures kvplan's own kernels first.
    """
    if context.invoked_subcommand is not None:
        return
    from kvplan.cli.output import warn
    from kvplan.errors import UsageError

    if (source is None) == (device is None):
        raise UsageError(
            "say where measurements come from: --from TABLES or --gpu INDEX, one of them",
            hint="kvplan calibrate --from measurements.parquet -o my-gpu.json",
        )
    if output_path is None:
        raise UsageError("say where the profile goes", hint="add -o my-gpu.json")
    from kvplan.latency.fit.calibrate import calibrate as fit
    from kvplan.latency.fit.profile_file import profile_text

    tables = source if source is not None else [str(_measure(device or 0, output_path))]
    profile, _ = fit(
        tables, gpu=gpu_spec, name=name, points=points, source=data_source, license=data_license,
        url=data_url, progress=lambda title: typer.echo(f"fitted {title}", err=True),
    )  # fmt: skip
    output_path.write_text(profile_text(profile), encoding="utf-8")
    for note in profile.notes:
        warn(note)
    _print(profile, output)


@app.command("show")
def show(
    profile: Annotated[str, typer.Argument(help="Name of a bundled profile, or a profile file.")],
    output: FormatOption = OutputFormat.table,
) -> None:
    """What a profile holds: its kernels, how well each predicts, and where the measurements come from."""
    from kvplan.latency.fit.profile_file import read_profile
    from kvplan.latency.profile import profile_path

    _print(read_profile(profile_path(profile)), output)


def _measure(device: int, output_path: Path) -> Path:
    """Run the measurement grid in a process of its own and return its table.

    A process apart keeps torch out of this one, and a crash of a kernel from taking the fit with it.
    """
    import subprocess
    import sys
    from importlib.util import find_spec

    from kvplan.errors import DataError, EnvironmentLacks

    if find_spec("torch") is None or find_spec("triton") is None:
        raise EnvironmentLacks(
            "measuring needs torch and triton",
            hint="pip install 'kvplan[gpu]' on the machine with the GPU, or fit with --from",
        )
    table = output_path.with_suffix(".measurements.csv")
    command = [sys.executable, "-m", "kvplan.kernels.benchmark", "--device", str(device), "-o", str(table)]
    code = subprocess.run(command, check=False).returncode
    if code == EnvironmentLacks.exit_code:
        raise EnvironmentLacks(
            f"CUDA device {device} cannot be measured", hint="kvplan doctor says what this machine can run"
        )
    if code != 0 or not table.is_file():
        raise DataError(f"the measurement ended with exit code {code} and no table", where=str(table))
    return table


def _print(profile: ProfileFile, output: OutputFormat) -> None:
    from kvplan.cli.output import answer, csv_text, markdown_table, print_json

    rows = [_row(profile, index) for index in range(len(profile.kernels))]
    if output is OutputFormat.json:
        kernels = [
            {
                "op": part.op, "labels": part.labels, "fitted_on": part.trained_on,
                "held_out": None if part.held_out is None else part.held_out.model_dump(),
                "low": part.low, "high": part.high, "parameters": part.parameters,
                "measured_with": part.measured_with,
            }
            for part in profile.kernels
        ]  # fmt: skip
        print_json(
            {
                "schema": "kvplan.calibrate/1", "name": profile.name, "gpu": profile.gpu,
                "provenance": profile.provenance.model_dump(), "kernels": kernels, "warnings": profile.notes,
            }
        )  # fmt: skip
    elif output is OutputFormat.csv:
        answer(csv_text(COLUMNS, rows))
    elif output is OutputFormat.md:
        answer(markdown_table(COLUMNS, rows))
    else:
        answer("\n".join(_table(profile, rows)))


def _row(profile: ProfileFile, index: int) -> tuple[str, ...]:
    part = profile.kernels[index]
    title = " ".join([part.op, *part.labels.values()])
    held = part.held_out
    if held is None:
        return (title, str(part.trained_on), "0", "", "", "")
    return (
        title, str(held.trained), str(held.tested), f"{held.median:.1%}", f"{held.p90:.1%}",
        f"{held.coverage:.1%}",
    )  # fmt: skip


def _table(profile: ProfileFile, rows: list[tuple[str, ...]]) -> list[str]:
    from textwrap import wrap

    where = profile.provenance
    about = f"Measurements: {where.source}, {where.license}{f', {where.url}' if where.url else ''}."
    lines = [f"Profile {profile.name} of {profile.gpu}: {len(rows)} kernels", *wrap(about, 80), ""]
    lines.append(f"{'fitted':>6}{'tested':>8}{'median':>8}{'p90':>8}{'covers':>8}  kernel")
    for title, fitted, tested, median, p90, covers in rows:
        first, *rest = wrap(title, 40, break_long_words=False)
        lines.append(f"{fitted:>6}{tested:>8}{median:>8}{p90:>8}{covers:>8}  {first}")
        lines += [" " * 40 + text for text in rest]
    about = "Errors are |predicted/measured - 1| on shapes not fitted on; 'covers' is the share of them"
    return [*lines, "", *wrap(about + " inside the 90 % band.", 80)]
