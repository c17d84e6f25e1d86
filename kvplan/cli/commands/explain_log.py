"""``kvplan explain-log``: a pasted start-up log, line by line: why the pool is what it is."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvplan.cli.options import FormatOption, OutputFormat, gpu_names, model_names

if TYPE_CHECKING:
    from kvplan.sizing.logs.account import Account
    from kvplan.sizing.logs.gpus import LoggedGpu
    from kvplan.sizing.logs.lines import Fact, Reading
    from kvplan.specs.schema import ModelSpec

DRAFTERS = ("eagle", "eagle3", "draft_model", "dflash")
"""Ways to draft with another model, whose layers share vLLM's pool: a log does not say how large they are."""

UNNAMED_GPU = "h100-sxm"
"""Whose batch defaults a comparison takes where the log says nothing of its GPU."""

MAX_BYTES = 64 << 20
"""Largest log read: start-ups are kilobytes."""


def explain_log(
    log: Annotated[str, typer.Argument(metavar="LOG", help="The log file, or - for stdin.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            autocompletion=model_names,
            help="Compare the pool's tokens with kvplan's for this model. Default: the log's, if known.",
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu", autocompletion=gpu_names, help="The GPU. Default: the one with the memory the log says."
        ),
    ] = None,
    tp: Annotated[
        int | None, typer.Option("--tp", min=1, help="Tensor parallelism, if the log is silent.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", "--kv-dtype", help="KV number format, if the log is silent.")
    ] = None,
    start: Annotated[
        int | None,
        typer.Option("--start", min=1, metavar="N", help="Explain this start of several. Default: the last."),
    ] = None,
    unread: Annotated[
        int, typer.Option("--unread", min=0, help="Show so many of the lines that were not understood.")
    ] = 0,
    output: FormatOption = OutputFormat.table,
) -> None:
    """Explain a vLLM or SGLang log: what each memory line means, how it was used, what would enlarge it."""
    from kvplan.errors import DataError, UsageError
    from kvplan.sizing.logs.account import account
    from kvplan.sizing.logs.documents import newest_first
    from kvplan.sizing.logs.gpus import logged_gpu
    from kvplan.sizing.logs.lines import read_log
    from kvplan.sizing.logs.starts import starts

    lines = _lines(log)
    backwards = newest_first(lines)
    try:
        reading = read_log(reversed(lines) if backwards else lines)
    except DataError as exc:
        exc.where = exc.where or ("<stdin>" if log == "-" else log)
        raise
    begun = starts(reading.facts)
    if start is not None and start > len(begun):
        raise UsageError(f"--start {start}: the log has {len(begun)}", hint="they count from 1")
    chosen = len(begun) if start is None else start
    found = account(begun[chosen - 1])
    device = logged_gpu(found, gpu)
    comparison = _compare(found, model, gpu, tp, dtype, device=device)
    document = _document(reading, begun, chosen, found, device, comparison, unread)
    document["newest_first"] = backwards
    _print(document, output)


def _lines(log: str) -> list[str]:
    import sys
    from contextlib import ExitStack

    from kvplan.errors import DataError
    from kvplan.sizing.logs.documents import decoded, lines_of
    from kvplan.traces.compression import Telling, unpacked

    with Telling(log), ExitStack() as stack:
        raw = sys.stdin.buffer if log == "-" else stack.enter_context(open(log, "rb"))
        _, stream = unpacked(raw, stack, name=log)
        text = stream.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise DataError(
            f"the log is larger than {MAX_BYTES >> 20} MiB",
            where=log,
            hint="cut it to the start-up, as: head -n 5000 LOG | kvplan explain-log -",
        )
    return lines_of(decoded(text))


def _compare(
    found: "Account",
    model: str | None,
    gpu: str | None,
    tp: int | None,
    dtype: str | None,
    *,
    device: "LoggedGpu | None",
) -> dict[str, Any] | None:
    """The tokens kvplan gives the logged pool of the model, beside the log's.

    Of the model that the log names, where none is named and it is a known one. Where an option of the
    comparison is given, one without an answer is an error.
    """
    from kvplan.cli.output import warn
    from kvplan.errors import DataError, UsageError

    spec = _spec(found, model, asked=(gpu, tp, dtype) != (None, None, None))
    asked = (model, gpu, tp, dtype) != (None, None, None, None)
    if spec is None:
        return None
    if found.engine is None or not found.pool_bytes or not found.pool_tokens or found.pool_bytes <= 0:
        if asked:
            warn(f"not compared with {spec.name}: the log does not say the pool's bytes and its tokens")
        return None
    try:
        return _beside(found, found.engine, spec, device, tp, dtype)
    except (DataError, UsageError):
        if asked:
            raise
        return None


def _spec(found: "Account", model: str | None, *, asked: bool) -> "ModelSpec | None":
    """The model to compare with; None where the log names none that is known, which is an error if asked."""
    from kvplan.errors import UnknownName, UsageError
    from kvplan.specs.catalog import find, load_entry
    from kvplan.specs.resolve import resolve_model
    from kvplan.specs.schema import ModelSpec

    if model is not None:
        return resolve_model(model).model
    try:
        return load_entry(find("model", found.model or ""), ModelSpec)
    except UnknownName as exc:
        if not asked:
            return None
        raise UsageError(
            "--gpu, --tp and --dtype are for the comparison with a model, and the log names none of kvplan's",
            hint="add --model NAME",
        ) from exc


def _beside(
    found: "Account",
    engine: str,
    spec: "ModelSpec",
    device: "LoggedGpu | None",
    tp: int | None,
    dtype: str | None,
) -> dict[str, Any]:
    from kvplan.sizing.capacity import fit_model
    from kvplan.sizing.logs.release import named_release
    from kvplan.sizing.parallel import Parallel
    from kvplan.specs.catalog import load_gpu

    pool_bytes, tokens = found.pool_bytes or 0, found.pool_tokens or 1
    own_layers = (found.speculation or "").endswith("mtp") and engine == "vllm"
    version = named_release(found.version)
    report = fit_model(
        spec,
        load_gpu(UNNAMED_GPU) if device is None else device.spec,
        max_model_len=found.context_tokens,
        parallel=Parallel(
            tp=tp or found.tp or 1,
            pp=found.pp or 1,
            cp=found.cp or 1,
            attention_ranks=(found.dp or 1) if found.dp_attention else 1,
        ),
        kv_dtype=dtype or _known_format(found.kv_dtype),
        engine=engine,
        version=version,
        max_num_seqs=found.max_num_seqs,
        max_num_batched_tokens=found.max_num_batched_tokens,
        block_size=found.block_tokens,
        prefix_caching=found.prefix_caching,
        draft=own_layers,
        lookup=engine == "vllm" and (found.speculation or "").startswith("ngram"),
        draft_tokens=found.draft_tokens or 1,
        kv_pool_bytes=pool_bytes + (found.state_bytes or 0),
    )
    return {
        "model": spec.name,
        "gpu": report.gpu.name,
        "tp": report.parallel.tp,
        "pp": report.parallel.pp,
        "kv_dtype": report.kv_format.name,
        "kv_tokens": report.kv_tokens,
        "log_tokens": tokens,
        "difference": round(report.kv_tokens / tokens - 1, 6),
        "rules": None if version == found.version else report.serving.version_text,
        "without_draft": found.speculation in DRAFTERS and engine == "vllm",
    }


def _known_format(name: str | None) -> str | None:
    from kvplan.errors import UnknownName, UsageError
    from kvplan.specs.formats import kv_format

    try:
        return name if name is None else kv_format(name).name
    except UnknownName as exc:
        raise UsageError(
            f"the log's KV format {name!r} is not one that kvplan knows", hint="name one with --dtype"
        ) from exc


def _document(
    reading: "Reading",
    begun: "list[tuple[Fact, ...]]",
    chosen: int,
    found: "Account",
    device: "LoggedGpu | None",
    comparison: dict[str, Any] | None,
    unread: int,
) -> dict[str, Any]:
    from dataclasses import asdict

    from kvplan.sizing.logs.explanation import explained_lines, reasons
    from kvplan.sizing.logs.remedies import enlargements
    from kvplan.sizing.logs.service import sentences, service
    from kvplan.sizing.logs.starts import mixed_models, reports_of

    rate = found.bytes_per_token
    facts = begun[chosen - 1]
    at_work = service(reports_of(facts, begun, reading.reports))
    return {
        "schema": "kvplan.explain-log/1",
        "starts": {"count": len(begun), "explained_from_line": facts[0].line},
        "explained_start": chosen,
        "source": facts[0].source or None,
        "mixed_models": mixed_models(facts),
        "account": asdict(found),
        "gpu": None
        if device is None
        else {
            "name": device.spec.name,
            "known_by": device.known_by,
            "alike": list(device.alike),
            "doubt": device.doubt,
        },
        "bytes_per_token": round(rate, 3) if rate is not None else None,
        "lines": [asdict(line) for line in explained_lines(facts)],
        "reasons": reasons(found),
        "service": None if at_work is None else asdict(at_work),
        "at_work": [] if at_work is None or found.engine is None else sentences(at_work, engine=found.engine),
        "enlarge": [asdict(change) for change in enlargements(found)],
        "comparison": comparison,
        "read": {
            "lines": reading.lines,
            "understood": len(
                {fact.line for fact in reading.facts} | {report.line for report in reading.reports}
            ),
            "not_understood": len(reading.unread),
        },
        "unread": [{"line": line, "text": text} for line, text in reading.unread[:unread]],
    }


def _print(document: dict[str, Any], output: OutputFormat) -> None:
    from kvplan.cli.output import answer, answer_rows, print_json

    columns = ("line", "name", "says", "means")
    rows = [[line[column] for column in columns] for line in document["lines"]]
    if output is OutputFormat.json:
        print_json(document)
    elif output is OutputFormat.table:
        answer("\n".join(_table(document)))
    else:
        answer_rows(output, columns, rows)


def _table(document: dict[str, Any]) -> list[str]:
    from kvplan.units import format_bytes, format_tokens

    found = document["account"]
    about = [
        found["engine"] or "an engine that the log does not name",
        found["version"],
        found["model"],
        _device(document["gpu"]),
    ]
    lines = [*_wrap("   ".join(word for word in about if word), 2), ""]
    if document["gpu"] and document["gpu"]["doubt"]:
        lines += [*_wrap(f"  {document['gpu']['doubt']}", 2), ""]
    if (count := document["starts"]["count"]) > 1:
        first = document["starts"]["explained_from_line"]
        whose = f" of {document['source']}" if document["source"] else ""
        number = document["explained_start"]
        which = "the last one" if number == count else f"number {number}"
        text = f"  {count} starts in this log; {which} is explained{whose}, from line {first} on (--start N)"
        lines += [*_wrap(text, 2), ""]
    if models := document["mixed_models"]:
        text = f"  the lines of {len(models)} servers are mixed ({', '.join(models)}): give the log of one"
        lines += [*_wrap(text, 2), ""]
    if document["newest_first"]:
        lines += ["  the newest line comes first in this log: lines are counted from its end", ""]
    for line in document["lines"]:
        lines += _wrap(f"  {line['line']:>5}  {line['says']}", 9)
        lines += _wrap(f"         -> {line['means']}", 12)
    if document["reasons"]:
        lines += ["", "  why"]
        for reason in document["reasons"]:
            lines += _wrap(f"    {reason}", 6)
    if (comparison := document["comparison"]) is not None:
        pipeline = f", pp {comparison['pp']}" if comparison["pp"] > 1 else ""
        draft = (
            "; the draft model's layers share the pool, and are not in that"
            if comparison["without_draft"]
            else ""
        )
        rules = (
            f"; by the rules of {found['engine']} {comparison['rules']}, as {found['version']} is no release"
            if comparison["rules"]
            else ""
        )
        lines += _wrap(
            f"    {comparison['model']} at tp {comparison['tp']}{pipeline} in {comparison['kv_dtype']}: "
            f"kvplan gives this pool {comparison['kv_tokens']:,} tokens, the log "
            f"{comparison['log_tokens']:,} ({_difference(comparison['difference'])}){draft}{rules}",
            6,
        )
    if document["at_work"]:
        lines += ["", "  at work"]
        for sentence in document["at_work"]:
            lines += _wrap(f"    {sentence}", 6)
    if document["enlarge"]:
        lines += ["", f"  what would {_end(document)}"]
        for change in document["enlarge"]:
            gain = []
            if change["gained_bytes"] is not None:
                gain.append(f"+{format_bytes(change['gained_bytes'])}")
            if change["gained_tokens"] is not None:
                gain.append(f"+{format_tokens(change['gained_tokens'])} tokens")
            lines += _wrap(f"    {change['change']}: {', '.join([*gain, change['why']])}", 6)
    read = document["read"]
    counts = f"{read['understood']} of {read['lines']} lines understood, {read['not_understood']} not"
    lines += ["", f"  {counts} (--unread N)"]
    lines += [f"  {item['line']:>5}  {item['text']}" for item in document["unread"]]
    return lines


def _device(gpu: dict[str, Any] | None) -> str | None:
    """The GPU in a heading; of one that only its memory tells, how many others it may be."""
    if gpu is None:
        return None
    if not gpu["alike"]:
        return str(gpu["name"])
    others = f"{gpu['alike'][0]}, ..." if len(gpu["alike"]) > 1 else gpu["alike"][0]
    return f"{gpu['name']} (by its memory; or {others})"


def _end(document: dict[str, Any]) -> str:
    """What the changes that are listed are for."""
    if document["account"]["refused"] in (None, "error"):
        return "enlarge its pool" if document["account"]["refused"] else "enlarge it"
    up = document["at_work"] or str(document["account"]["refused"]).endswith("exhausted")
    return "keep it up" if up else "let it start"


def _difference(ratio: float) -> str:
    if ratio == 0:
        return "the same"
    return f"{ratio:+.2%}" if abs(ratio) >= 0.00005 else "within 0.01%"


def _wrap(text: str, indent: int) -> list[str]:
    import textwrap

    return textwrap.wrap(
        text, 80, subsequent_indent=" " * indent, break_on_hyphens=False, replace_whitespace=False
    ) or [""]  # fmt: skip
