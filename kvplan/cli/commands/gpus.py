"""``kvplan gpus``: the GPUs kvplan knows, and what is known of one."""

from typing import TYPE_CHECKING, Annotated

import typer

from kvplan.cli.options import FormatOption, OutputFormat, gpu_names

if TYPE_CHECKING:
    from kvplan.specs.hardware import GpuSpec

app = typer.Typer(name="gpus", no_args_is_help=True, help="The GPUs kvplan knows.")

COLUMNS = (
    "name",
    "usable_gib",
    "bandwidth_tb_per_s",
    "bf16_tflops",
    "fp8_tflops",
    "fp4_tflops",
    "nvlink_gb_per_s",
)


@app.command("list")
def list_gpus(
    search: Annotated[
        str | None,
        typer.Argument(
            metavar="WORD", help="Only names, aliases, vendors and generations that contain this."
        ),
    ] = None,
    output: FormatOption = OutputFormat.table,
) -> None:
    """Every GPU: memory the driver gives, bandwidth, dense peaks, fabric (one direction)."""
    from kvplan.cli.output import answer, answer_rows, print_json
    from kvplan.specs.catalog import entries, load_entry
    from kvplan.specs.hardware import GpuSpec

    needle = (search or "").casefold()
    specs = [
        spec
        for spec in (load_entry(entry, GpuSpec) for entry in entries("gpu"))
        if any(needle in text.casefold() for text in _words(spec))
    ]
    if output is OutputFormat.json:
        print_json({"schema": "kvplan.gpus/1", "gpus": [_document(spec) for spec in specs]})
    elif output is OutputFormat.table:
        answer("\n".join(_table(specs)) if specs else f"no GPU contains {search!r}")
    else:
        answer_rows(output, COLUMNS, [_row(spec) for spec in specs])


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="GPU", autocompletion=gpu_names, help="GPU name or alias.")],
    output: FormatOption = OutputFormat.table,
) -> None:
    """Everything known of one GPU, with its sources."""
    from kvplan.cli.output import answer, answer_rows, flat_rows, print_json
    from kvplan.specs.catalog import load_gpu

    spec = load_gpu(name)
    if output is OutputFormat.json:
        print_json(_document(spec))
    elif output is OutputFormat.csv:
        answer_rows(output, ("fact", "value"), flat_rows(_document(spec)))
    elif output is OutputFormat.md:
        answer_rows(output, ("fact", "value"), _facts(spec))
    else:
        answer("\n".join(line for fact, value in _facts(spec) for line in _wrap(fact, value)))


def _words(spec: "GpuSpec") -> tuple[str, ...]:
    return (spec.name, *spec.aliases, f"{spec.vendor} {spec.architecture}")


def _table(specs: "list[GpuSpec]") -> list[str]:
    """Lines, by generation: the newest first, NVIDIA's before others."""
    from itertools import groupby

    from kvplan.sizing.serving import compute_capability

    # By its first GPU: later ones of an old generation (compute capability 12) outnumber a new one's.
    first: dict[str, tuple[tuple[int, int], str]] = {}
    for spec in specs:
        age = (compute_capability(spec), spec.compute_capability or "")
        first[_generation(spec)] = min(first.get(_generation(spec), age), age)
    specs = sorted(specs, key=lambda spec: (first[_generation(spec)], _generation(spec)), reverse=True)
    width = max(16, *(len(spec.name) + 2 for spec in specs))
    lines = [f"{'name':<{width}}{'GiB':>8}{'TB/s':>7}{'bf16':>8}{'fp8':>8}{'fp4':>8}{'link GB/s':>11}"]
    for generation, members in groupby(specs, key=_generation):
        lines += ["", generation]
        for name, usable, bandwidth, bf16, fp8, fp4, link in map(_row, members):
            lines.append(
                f"{name:<{width}}{usable:>8}{bandwidth:>7}{bf16:>8}{fp8:>8}{fp4:>8}{link:>11}".rstrip()
            )
    return [*lines, "", "GiB: what the driver gives. bf16, fp8, fp4: dense TFLOP/s."]


def _generation(spec: "GpuSpec") -> str:
    known = spec.architecture or "of no known architecture"
    return f"{spec.vendor.upper()} {known.upper() if 'dna' in known else known.capitalize()}"


def _document(spec: "GpuSpec") -> dict[str, object]:
    return spec.model_dump(mode="json", by_alias=True, exclude_none=True)


def _tera(spec: "GpuSpec", dtype: str) -> str:
    peak = {str(key): value for key, value in spec.peak_flops.items()}.get(dtype)
    return f"{peak / 1e12:.0f}" if peak is not None else ""


def _row(spec: "GpuSpec") -> tuple[str, ...]:
    from kvplan.units import GIB

    link = spec.interconnect.nvlink_bytes_per_s
    return (
        spec.name,
        f"{spec.usable_memory_bytes / GIB:.2f}",
        f"{spec.bandwidth_bytes_per_s / 1e12:.2f}",
        _tera(spec, "bf16") or _tera(spec, "fp16"),
        _tera(spec, "fp8"),
        _tera(spec, "fp4"),
        f"{link / 1e9:.0f}" if link is not None else "",
    )


def _facts(spec: "GpuSpec") -> list[tuple[str, str]]:
    from kvplan.units import format_bytes

    link = spec.interconnect
    facts: list[tuple[str, str | None]] = [
        ("name", spec.name),
        ("aliases", ", ".join(spec.aliases)),
        ("architecture", f"{spec.architecture} ({spec.compute_capability})"),
        ("memory, datasheet", f"{spec.memory_bytes:,} B"),
        ("memory, usable", f"{format_bytes(spec.usable_memory_bytes)} ({spec.usable_memory_bytes:,} B)"),
        ("bandwidth", f"{spec.bandwidth_bytes_per_s / 1e9:,.0f} GB/s"),
        *((f"peak {key}, dense", f"{value / 1e12:,.1f} T/s") for key, value in spec.peak_flops.items()),
        ("SMs", str(spec.sm_count) if spec.sm_count else None),
        ("L2 cache", format_bytes(spec.l2_bytes) if spec.l2_bytes else None),
        (
            "GPU fabric, one way",
            (
                f"{link.nvlink_bytes_per_s / 1e9:,.0f} GB/s"
                + (f", between {link.fabric_gpus} GPUs" if link.fabric_gpus else "")
            )
            if link.nvlink_bytes_per_s
            else "none",
        ),
        ("PCIe", f"gen {link.pcie_generation}" if link.pcie_generation else None),
        ("power", f"{spec.tdp_w:.0f} W" if spec.tdp_w else None),
        ("source", f"{spec.source.grade}: {spec.source.url} {spec.source.note or ''}".rstrip()),
    ]
    if spec.memory_source is not None:
        facts.append(("memory source", f"{spec.memory_source.grade}: {spec.memory_source.note or ''}"))
    facts += [("note", note) for note in spec.notes]
    return [(fact, value) for fact, value in facts if value]


def _wrap(fact: str, value: str) -> list[str]:
    import textwrap

    return textwrap.wrap(
        f"{fact:<22}{value}", 80, subsequent_indent=" " * 22, break_long_words=False, break_on_hyphens=False
    )
