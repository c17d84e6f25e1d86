"""``kvplan size``: what the KV cache of a model takes, line by line."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from kvplan.cli.options import (
    AttentionRanksOption,
    DpAttentionOption,
    FormatOption,
    ModelArgument,
    OutputFormat,
)

if TYPE_CHECKING:
    from kvplan.sizing.size import SizeReport
    from kvplan.sizing.terms import Term
    from kvplan.specs.model import ModelSpec
    from kvplan.specs.resolve import Resolved

ALTERNATIVES = ("bf16", "fp8", "int8_per_token_head", "int4", "nvfp4", "kivi2", "fp8_ds_mla", "nvfp4_ds_mla")
"""Number formats the table compares with; those that do not apply to the model are left out."""


def size(
    model: ModelArgument,
    ctx: Annotated[
        str | None,
        typer.Option("--ctx", "--context", help="Context in tokens: 131072, 128k. Default: the model's."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", "--kv-dtype", help="KV number format: bf16, fp8, int4, kivi2 ...")
    ] = None,
    dtype_k: Annotated[str | None, typer.Option("--dtype-k", help="Number format of K alone.")] = None,
    dtype_v: Annotated[str | None, typer.Option("--dtype-v", help="Number format of V alone.")] = None,
    batch: Annotated[int, typer.Option(help="Sequences.")] = 1,
    block_size: Annotated[int, typer.Option(help="Tokens of a block.")] = 16,
    tp: Annotated[int, typer.Option(help="Tensor parallelism.")] = 1,
    pp: Annotated[int, typer.Option(help="Pipeline parallelism.")] = 1,
    cp: Annotated[int, typer.Option(help="Context parallelism.")] = 1,
    dp: Annotated[int, typer.Option(help="Data parallelism: replicas.")] = 1,
    dp_attention: DpAttentionOption = False,
    attention_ranks: AttentionRanksOption = None,
    retention: Annotated[
        str,
        typer.Option(help="What is kept: vllm, sglang, transformers, ideal, streaming:S+W, h2o:R, snapkv:R."),
    ] = "vllm",
    max_num_batched_tokens: Annotated[
        int, typer.Option(help="Token budget of a step; windows are held open for it.")
    ] = 8192,
    encoder_tokens: Annotated[
        str | None, typer.Option(help="Tokens of the encoder's input (encoder-decoder models).")
    ] = None,
    images: Annotated[int, typer.Option(help="Images in the context, on top of --ctx.")] = 0,
    image_tokens: Annotated[
        int | None, typer.Option(help="Tokens of one image, where its resolution decides.")
    ] = None,
    draft: Annotated[
        bool, typer.Option("--draft", help="Also keep the KV of the model's MTP layers.")
    ] = False,
    output: FormatOption = OutputFormat.table,
) -> None:
    """Size the KV cache of MODEL: per token, per sequence, in blocks, per GPU, with every formula."""
    from kvplan.errors import UsageError
    from kvplan.sizing.attention import default_format
    from kvplan.sizing.parallel import Parallel
    from kvplan.sizing.parallel import attention_ranks as ranks_among
    from kvplan.sizing.retention import parse_retention
    from kvplan.sizing.size import size_model
    from kvplan.specs.formats import kv_format, kv_pair
    from kvplan.specs.resolve import resolve_model
    from kvplan.units import parse_tokens

    found = resolve_model(model)
    spec = found.model
    base = dtype if dtype not in (None, "auto") else default_format(spec, parse_retention(retention).engine)
    form = kv_pair(dtype_k or base, dtype_v or base) if dtype_k or dtype_v else kv_format(base)
    if ctx is None and spec.max_context is None:
        raise UsageError(f"{spec.name} does not say how long its context is", hint="give --ctx")
    tokens = parse_tokens(ctx) if ctx is not None else spec.max_context
    assert tokens is not None
    ranks = ranks_among(tp, dp_attention=dp_attention, given=attention_ranks)
    report = size_model(
        spec,
        context_tokens=tokens,
        kv=form,
        batch=batch,
        block_size=block_size,
        parallel=Parallel(tp, pp, cp, dp, ranks),
        retention=retention,
        max_num_batched_tokens=max_num_batched_tokens,
        encoder_tokens=parse_tokens(encoder_tokens) if encoder_tokens is not None else None,
        images=images,
        image_tokens=image_tokens,
        draft=draft,
    )
    _print(report, found, output)


def _print(report: "SizeReport", found: "Resolved", output: OutputFormat) -> None:
    from kvplan.cli.output import answer, answer_rows, print_json, warn

    warnings = (*found.warnings, *report.warnings)
    if output is OutputFormat.json:
        document = report.to_dict()
        document["origin"] = found.origin
        document["warnings"] = list(warnings)
        print_json(document)
        return
    for message in warnings:
        warn(message)
    columns = ("name", "formula", "value", "unit", "source")
    rows = [(t.name, t.formula, t.value, t.unit, t.source) for t in report.terms]
    if output is OutputFormat.table:
        answer("\n".join(_table(report, found.model, found.origin)))
    else:
        answer_rows(output, columns, rows, most=4)


def _table(report: "SizeReport", spec: "ModelSpec", origin: str) -> list[str]:
    from kvplan.units import format_bytes

    ask = report.request
    kinds = ", ".join(f"{row.count} {row.kind}" for row in report.rows)
    lines = [
        f"{spec.name}   {spec.num_layers} layers: {kinds}",
        f"KV {ask.form.name}   context {ask.context_tokens:,} tokens   retention {ask.retention.name}",
        f"spec: {origin}",
        "",
    ]
    for name, formula, also, value, unit in _folded(report.terms):
        number = f"{value:,} {unit}"
        human = format_bytes(value) if value >= 1024 else ""
        lines += _line(name, formula, number, human)
        lines += [line for words in also for line in _wrap(f"      {words}")]
    for words in _windows(report):
        lines += _wrap(f"  {words}")
    for words in report.sharding:
        lines += _wrap(f"  {words}")
    lines += _wrap("  not counted: weights, activations, runtime -> kvplan fit")
    lines += ["", *_alternatives(report, spec)]
    return lines


def _windows(report: "SizeReport") -> Iterator[str]:
    """What layers that forget save against layers that keep the whole context, and on which assumption."""
    from kvplan.units import format_bytes

    ask = report.request
    forgetful = [row for row in report.rows if row.window_bytes_per_token]
    if not forgetful:
        return
    what = "windows" if any("sliding" in row.kind for row in forgetful) else "chunks"
    kept = report.kv_bytes_per_sequence - report.encoder_bytes_per_sequence
    per_token = sum(row.count * (row.bytes_per_token + row.window_bytes_per_token) for row in report.rows)
    whole = round(per_token * ask.context_tokens)
    if kept < whole:
        layers = sum(row.count for row in report.rows if row.stores)
        yield (
            f"{what} save {1 - kept / whole:.0%}: all {layers} layers over "
            f"{ask.context_tokens:,} tokens would take {format_bytes(whole)}"
        )
    if ask.retention.holds_steps:
        yield (
            f"{what} are held open for steps of {ask.max_num_batched_tokens:,} tokens "
            "(--max-num-batched-tokens); kvplan fit takes the engine's default on its GPU"
        )


def _folded(terms: "tuple[Term, ...]") -> list[tuple[str, str, list[str], int | float, str]]:
    """``(name, formula, what else it is, value, unit)``: a number said once is not said again.

    A sum of one part (parts are named ``layers: what``) is the part under the sum's name; what rounding or
    multiplying by one leaves as it was is said below it.
    """
    lines: list[tuple[str, str, list[str], int | float, str]] = []
    parts = 0
    for term in terms:
        is_part = ": " in term.name
        name, formula, also, value, unit = lines[-1] if lines else ("", "", [], 0, "")
        # What a GPU holds is looked for: it stands alone even where every rank keeps a copy of everything.
        alike = (value, unit) == (term.value, term.unit) and term.name != "per GPU"
        if lines and not is_part and alike:
            if parts == 1:
                lines[-1] = (term.name, formula, also, value, unit)
                parts = 0
                continue
            if not parts and not name.endswith("per token"):
                also.append(f"{term.name}: {term.formula}")
                continue
        parts = parts + 1 if is_part else 0
        lines.append((term.name, term.formula, [], term.value, term.unit))
    return lines


def _line(name: str, formula: str, number: str, human: str) -> list[str]:
    """``name  formula  bytes  human`` in 80 columns; a long formula goes on a line of its own."""
    right = f"{number:>21} {human:>11}"
    left = f"  {name}"
    if len(left) + 2 + len(formula) + len(right) <= 80:
        return [(f"{left}  {formula}".ljust(80 - len(right)) + right).rstrip()]
    if len(left) + len(right) <= 80:
        return [(left.ljust(80 - len(right)) + right).rstrip(), *_wrap(f"      {formula}")]
    return [*_wrap(left), (" " * (80 - len(right)) + right).rstrip(), *_wrap(f"      {formula}")]


def _wrap(text: str) -> list[str]:
    import textwrap

    indent = " " * (len(text) - len(text.lstrip()))
    return textwrap.wrap(text, 80, subsequent_indent=indent + "  ", break_on_hyphens=False) or [""]


def _alternatives(report: "SizeReport", spec: "ModelSpec") -> list[str]:
    from kvplan.errors import UsageError
    from kvplan.sizing.size import size_model
    from kvplan.specs.formats import kv_format
    from kvplan.units import format_bytes

    ask = report.request
    held = -(-ask.batch // ask.parallel.sequence_shards)
    gpu = f"per GPU, {held} seqs" if held > 1 else "per GPU"
    lines = [f"  {'other KV formats':<24}{'per token':>14}{'allocated/seq':>14}{gpu:>18}{'vs now':>8}"]
    for name in ALTERNATIVES:
        form = kv_format(name)
        if form.name == ask.form.name:
            continue
        try:
            other = size_model(
                spec,
                context_tokens=ask.context_tokens,
                kv=form,
                batch=ask.batch,
                block_size=ask.block_size,
                parallel=ask.parallel,
                retention=ask.retention,
                max_num_batched_tokens=ask.max_num_batched_tokens,
                async_scheduling=ask.async_scheduling,
                encoder_tokens=ask.encoder_tokens or None,
                draft=ask.draft,
                mamba_mode=ask.mamba_mode,
            )
        except UsageError:
            continue  # a format for another kind of attention
        ratio = other.allocated_bytes_per_sequence / max(report.allocated_bytes_per_sequence, 1)
        lines.append(
            f"  {name:<24}{f'{other.kv_bytes_per_token:,} B':>14}"
            f"{format_bytes(other.allocated_bytes_per_sequence):>14}"
            f"{format_bytes(other.bytes_per_gpu):>18}{ratio:>7.2f}x"
        )
    return lines
