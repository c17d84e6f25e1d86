"""``kvplan fit``: the bill of memory per GPU, what it affords, and the flags that give it."""

from typing import TYPE_CHECKING, Annotated

import typer

from kvplan.cli.options import (
    AttentionRanksOption,
    DpAttentionOption,
    FormatOption,
    ModelArgument,
    OutputFormat,
    PrefixCache,
    gpu_names,
)
from kvplan.cli.simulation import WeightsDtype

if TYPE_CHECKING:
    from kvplan.sizing.capacity import FitReport

MORE = 5
"""How many ways to fit more the table shows."""


def fit(
    model: ModelArgument,
    gpu: Annotated[
        str, typer.Option("--gpu", autocompletion=gpu_names, help="GPU name or alias: kvplan gpus list.")
    ],
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, metavar="N", help="GPUs in all; what tp and pp leave over replicates."),
    ] = None,
    tp: Annotated[int | None, typer.Option("--tp", min=1, metavar="N", help="Tensor parallelism.")] = None,
    pp: Annotated[int, typer.Option("--pp", min=1, metavar="N", help="Pipeline parallelism.")] = 1,
    ctx: Annotated[
        str | None,
        typer.Option("--ctx", "--context", help="Longest request: 32k, 131072. Default: the model's."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", "--kv-dtype", help="KV number format: bf16, fp8, nvfp4 ...")
    ] = None,
    weights_dtype: WeightsDtype = None,
    utilization: Annotated[
        float | None,
        typer.Option("--utilization", help="gpu_memory_utilization, or SGLang's mem_fraction_static."),
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="vllm or sglang.")] = "vllm",
    engine_version: Annotated[
        str | None,
        typer.Option(
            "--engine-version", help="Whose memory rules: vLLM 0.6 to 0.33, SGLang 0.5.1 to 0.5.23."
        ),
    ] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option("--max-num-seqs", help="Sequences of one step. Default: the engine's.")
    ] = None,
    max_num_batched_tokens: Annotated[
        int | None, typer.Option("--max-num-batched-tokens", help="Tokens of one step.")
    ] = None,
    block_size: Annotated[
        int | None, typer.Option("--block-size", min=1, metavar="N", help="Tokens of a block.")
    ] = None,
    eager: Annotated[bool, typer.Option("--eager", help="No CUDA graphs.")] = False,
    prefix: Annotated[
        PrefixCache | None, typer.Option("--prefix", help="vLLM's prefix cache; default the engine's.")
    ] = None,
    expert_parallel: Annotated[
        bool, typer.Option("--expert-parallel", help="Deal whole experts out to the tensor-parallel ranks.")
    ] = False,
    dp_attention: DpAttentionOption = False,
    attention_ranks: AttentionRanksOption = None,
    draft: Annotated[
        bool, typer.Option("--draft", help="Draft with the model's MTP layers: their weights and their KV.")
    ] = False,
    draft_model: Annotated[
        str | None, typer.Option("--draft-model", help="Draft with this model: its weights and its KV.")
    ] = None,
    draft_tokens: Annotated[
        int | None,
        typer.Option("--draft-tokens", min=1, max=64, metavar="N", help="Drafts of a step; default 1."),
    ] = None,
    output: FormatOption = OutputFormat.table,
) -> None:
    """Does MODEL fit on this GPU? Memory line by line, blocks, concurrency, and the flags that give it.

    Exits with 3 when it does not fit, saying what would.
    """
    from kvplan.errors import AnswerIsNo, UsageError
    from kvplan.sizing.capacity import choose_parallel, fit_model
    from kvplan.specs.catalog import load_gpu
    from kvplan.specs.resolve import resolve_model
    from kvplan.units import parse_tokens

    if draft_tokens is not None and not draft and draft_model is None:
        raise UsageError(
            "--draft-tokens counts drafts, and nobody drafts", hint="give --draft or --draft-model"
        )
    found = resolve_model(model)
    count = gpus or (tp or 1) * pp
    parallel = choose_parallel(
        found.model, count, tp=tp, pp=pp, dp_attention=dp_attention, attention_ranks=attention_ranks
    )
    report = fit_model(
        found.model,
        load_gpu(gpu),
        max_model_len=parse_tokens(ctx) if ctx is not None else None,
        parallel=parallel,
        kv_dtype=dtype,
        weights_dtype=weights_dtype,
        engine=engine,
        version=engine_version,
        utilization=utilization,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
        block_size=block_size,
        cuda_graphs=not eager,
        prefix_caching=None if prefix is None else prefix is PrefixCache.hash,
        expert_parallel=expert_parallel,
        draft=draft,
        drafter=resolve_model(draft_model).model if draft_model is not None else None,
        draft_tokens=draft_tokens or 1,
    )
    _print(report, (model, draft_model), found.origin, found.warnings, output)
    if not report.fits:
        raise AnswerIsNo(_why_not(report), hint=_what_would(report))


def _why_not(report: "FitReport") -> str:
    from kvplan.units import format_bytes, format_tokens

    who = f"{report.model.name} on {report.parallel.gpus} x {report.gpu.name}"
    if report.kv_pool_bytes <= 0:
        short = format_bytes(-report.kv_pool_bytes)
        return f"{who} does not fit: weights and overheads exceed the budget by {short}"
    if report.binding.missing_slots is not None:
        return f"{who} does not fit: {report.binding.missing_slots}"
    context = format_tokens(report.max_model_len)
    if report.binding.parted:
        there = format_tokens(report.kv_tokens)
        return f"{who} does not fit: a request may have {context} tokens, and the pool has {there}"
    need, have = format_bytes(report.request_bytes), format_bytes(report.kv_pool_bytes)
    own = ", one block of which is the engine's own" if report.request_bytes <= report.kv_pool_bytes else ""
    return f"{who} does not fit: one request of {context} tokens takes {need} of a pool of {have}{own}"


def _what_would(report: "FitReport") -> str | None:
    from kvplan.sizing.remedies import remedies

    ways = [remedy.option for remedy in remedies(report) if remedy.fits]
    return (
        f"what would: {'; '.join(ways)}" if ways else "nothing up to 64 of these GPUs; see kvplan gpus list"
    )


def _print(
    report: "FitReport",
    asked: tuple[str, str | None],
    origin: str,
    notes: tuple[str, ...],
    output: OutputFormat,
) -> None:
    from kvplan.cli.output import answer, answer_rows, print_json, warn
    from kvplan.cli.simulate_line import simulate_line
    from kvplan.sizing.fit import bill_terms, fit_document, fit_warnings

    if output is OutputFormat.json:
        document = fit_document(report)
        document["simulate"] = simulate_line(report, *asked)
        document["origin"] = origin
        document["warnings"] = [*notes, *document["warnings"]]
        print_json(document)
        return
    for message in (*notes, *fit_warnings(report)):
        warn(message)
    columns = ("name", "formula", "value", "unit", "source")
    rows = [(t.name, t.formula, t.value, t.unit, t.source) for t in bill_terms(report)]
    if output is OutputFormat.table:
        answer("\n".join([*_table(report, origin), *_ways(report), *_commands(report, asked)]))
    else:
        answer_rows(output, columns, rows, most=4)


def _table(report: "FitReport", origin: str) -> list[str]:
    from kvplan.sizing.fit import bill_terms
    from kvplan.units import format_bytes, format_tokens

    serving, parallel = report.serving, report.parallel
    layout = f"tp {parallel.tp}" + (f" x pp {parallel.pp}" if parallel.pp > 1 else "")
    layout += f", {parallel.attention_ranks} attention ranks" if parallel.dp_attention else ""
    if parallel.dp > 1:
        layout += f", {parallel.dp} replicas"
    lines = _wrap(
        f"{report.model.name} on {parallel.gpus} x {report.gpu.name} ({layout})   "
        f"{serving.kind} {serving.version_text}"
    )
    lines += _wrap(
        f"context {format_tokens(report.max_model_len)}   KV {report.kv_format.name}   "
        f"weights {report.weights_format}   {report.max_num_seqs:,} seqs   "
        f"{serving.max_num_batched_tokens:,} tokens a step"
    )
    lines += [f"spec: {origin}", ""]
    signs = {"usable_memory": " ", "budget": " ", "kv_pool": "="}
    where = f"stage {report.binding.bill.stage + 1} of {parallel.pp}, " if parallel.pp > 1 else ""
    lines.append(f"  one GPU{' (' + where + 'which binds)' if where else ''}")
    for term in bill_terms(report):
        if term.unit == "B":
            lines += _line(signs.get(term.name, "-"), term.name, term.formula, format_bytes(term.value))
    return [*lines, "", *_affords(report)]


def _affords(report: "FitReport") -> list[str]:
    """Blocks, tokens, concurrency and the longest request, of one rank or replica and of all."""
    from kvplan.sizing.fit import tokens_words
    from kvplan.units import format_bytes, format_tokens

    capacity, parallel = report.binding.capacity, report.parallel
    shards = parallel.sequence_shards
    each = " a rank" if parallel.dp_attention else " a replica" if shards > 1 else ""
    lines = []
    if capacity.num_blocks:
        lines.append(
            f"  {capacity.num_blocks:,} blocks of {report.block_size:,} token{'s'[: report.block_size > 1]} "
            f"({format_bytes(capacity.block_bytes)} each)"
        )
        shared = f" ({tokens_words(report)})" if report.layer_groups > 1 else ""
        whole = f", {shards * capacity.kv_tokens:,} {_over(report)}" if shards > 1 else ""
        lines += _wrap(f"  {capacity.kv_tokens:,} KV tokens{each}{whole}{shared}")
    lines.append(
        f"  {float(report.max_concurrency):,.2f}x concurrency at {format_tokens(report.max_model_len)} "
        f"tokens{each}"
    )
    if shards > 1:
        lines[-1] += f", {float(report.total_concurrency):,.2f}x {_over(report)}"
    if report.binding.pool.holds_windows:
        lines += _wrap(
            f"  one request takes {format_bytes(report.request_bytes)}: windows are held open for steps of "
            f"{report.serving.max_num_batched_tokens:,} tokens"
        )
    longest = report.longest_context()
    limit = ""
    if longest == report.context_limit:
        limit = " (the model's limit)"
    elif report.context_limit is not None and longest == report.max_model_len > report.context_limit:
        limit = " (a longer one was not asked for)"
    lines.append(
        f"  {format_tokens(longest)} tokens is the longest request that fits{limit}"
        if longest
        else "  no request fits"
    )
    return lines


def _over(report: "FitReport") -> str:
    """``over 8 ranks``, ``over 2 replicas``: what sequences are dealt to."""
    parallel = report.parallel
    if not parallel.dp_attention:
        return f"over {parallel.dp} replicas"
    replicas = f" of {parallel.dp} replicas" if parallel.dp > 1 else ""
    return f"over {parallel.sequence_shards} ranks{replicas}"


def _ways(report: "FitReport") -> list[str]:
    """What would make it fit, or fit more: tokens and concurrency over all ranks and replicas."""
    from kvplan.sizing.remedies import remedies

    ways = remedies(report)
    if not report.fits:
        ways = [way for way in ways if way.fits]
    if not ways:
        return []
    title = "more would fit with" if report.fits else "it would fit with"
    if any(way.report.parallel.sequence_shards > 1 for way in ways[:MORE]):
        title += " (all ranks and replicas)"
    lines = ["", f"  {title:<44}{'KV tokens':>14}{'concurrency':>16}"]
    for way in ways[:MORE]:
        after = way.report
        words = f"  {way.change} ({way.option})"
        if len(words) > 46:
            lines.append(f"  {way.change}")
            words = f"    ({way.option})"
        lines.append(
            f"{words:<46}{after.kv_tokens * after.parallel.sequence_shards:>14,}"
            f"{float(after.total_concurrency):>15,.2f}x"
        )
    return lines


def _commands(report: "FitReport", asked: tuple[str, str | None]) -> list[str]:
    """How to start the engine so, and how to go on to what happens under traffic."""
    from kvplan.cli.simulate_line import ACCEPTANCE, drafts, simulate_line
    from kvplan.cli.tables import shell_lines
    from kvplan.sizing.flags import engine_flags, needs_checkpoint, no_command

    if not report.fits:
        return []
    kind = report.serving.kind
    flags = engine_flags(report)[kind]
    lines = [""]
    if flags is None:
        lines += _wrap(f"  {no_command(report, kind)}: no command")
    else:
        lines += shell_lines(flags)
        if needs_checkpoint(report):
            own = f"  {report.model.name} is in {report.model.weights.format}"
            lines += _wrap(f"{own}: name a checkpoint in {report.weights_format}, no flag makes one")
    if (simulation := simulate_line(report, *asked)) is not None:
        taken = f", if {ACCEPTANCE:.0%} of drafts are accepted (give what your engine logs)"
        lines += ["", *_wrap(f"  under traffic{taken if drafts(report) else ''}:"), *shell_lines(simulation)]
    return lines


def _line(sign: str, name: str, formula: str, value: str) -> list[str]:
    """``- weights  formula    14.99 GiB`` in 80 columns; a long formula goes on lines of its own."""
    left = f"  {sign} {name.replace('_', ' '):<14}"
    right = f"{value:>12}"
    if len(left) + len(formula) + 2 + len(right) <= 80:
        return [f"{left}{formula}".ljust(80 - len(right)) + right]
    return [left.ljust(80 - len(right)) + right, *_wrap(f"      {formula}", "      ")]


def _wrap(text: str, indent: str = "  ") -> list[str]:
    import textwrap

    return textwrap.wrap(
        text, 80, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False,
        drop_whitespace=True, replace_whitespace=False, initial_indent="",
    ) or [""]  # fmt: skip
