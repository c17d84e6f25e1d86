"""How ``kvplan trace ladder`` words its answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kvplan.cli.options import OutputFormat
from kvplan.cli.output import answer, answer_rows, print_json
from kvplan.cli.trace_answers import wrapped

if TYPE_CHECKING:
    from kvplan.engine.cache_replay import References
    from kvplan.engine.ladder import Ladder

COLUMNS = ("blocks", "policy", "hit_blocks", "block_hit_ratio", "token_hit_ratio", "evicted_blocks")
BOUND = "content bound"


def ladder_document(
    trace: dict[str, Any], references: References, rungs: list[Ladder], accounting: dict[str, Any] | None
) -> dict[str, Any]:
    """The ``kvplan.ladder/1`` document."""
    bound = references.bound
    return {
        "schema": "kvplan.ladder/1",
        "trace": trace,
        "accounting": accounting,
        "block_size": references.block_size,
        "requests": len(references.prompts),
        "block_refs": bound.block_refs,
        "input_tokens": bound.input_tokens,
        "content_bound": {
            "hit_blocks": bound.hit_blocks,
            "block_hit_ratio": bound.block_hit_ratio,
            "token_hit_ratio": bound.token_hit_ratio,
        },
        "rungs": [rung.to_dict() for rung in rungs],
    }


def print_ladder(document: dict[str, Any], output: OutputFormat) -> None:
    """The document in the form asked for."""
    if output is OutputFormat.json:
        print_json(document)
    elif output is OutputFormat.table:
        answer("\n".join(_lines(document)))
    else:
        answer_rows(output, COLUMNS, list(_rows(document)))


def _rows(document: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    bound = document["content_bound"]
    for rung in document["rungs"]:
        for name, found in rung["policies"].items():
            yield (rung["blocks"], name, *(found[column] for column in COLUMNS[2:]))
        yield (rung["blocks"], BOUND, *(bound[column] for column in COLUMNS[2:5]), "")


def _lines(document: dict[str, Any]) -> Iterator[str]:
    trace, size = document["trace"], document["block_size"]
    yield f"{trace['name']} ({trace['format']})"
    yield (
        f"  {document['requests']:,} requests, {document['block_refs']:,} references to blocks of "
        f"{size:,} tokens"
    )
    yield from (wrapped("  note: ", note) for note in (document["accounting"] or {}).get("notes", ()))
    yield "  hits in % of these references; one request at a time, answers not cached"
    for rung in document["rungs"]:
        yield ""
        yield f"cache of {rung['blocks']:,} blocks ({rung['blocks'] * size:,} tokens)"
        yield from _rung_lines(document, rung)


def _rung_lines(document: dict[str, Any], rung: dict[str, Any]) -> Iterator[str]:
    ratios = {name: found["block_hit_ratio"] for name, found in rung["policies"].items()}
    bound = document["content_bound"]["block_hit_ratio"]
    optimum = ratios.pop("belady")
    yield _line(BOUND, bound, "asked for before: a cache without limit")
    yield _line("belady", optimum, "the optimum at this capacity")
    for name in sorted(ratios, key=lambda name: -ratios[name]):
        marks = ["best online"] if name == rung["best_online"] else []
        marks += ["vLLM's own"] if name == "lru" else []
        yield _line(name, ratios[name], ", ".join(marks))
    if rung["cut_requests"]:
        yield f"  {rung['cut_requests']:,} prompts are longer than the cache; only their beginning is kept"
    yield wrapped("  ", rung["sentence"])


def _line(name: str, ratio: float, remark: str) -> str:
    return f"  {name:<15}{100 * ratio:>8.2f}   {remark}".rstrip()
