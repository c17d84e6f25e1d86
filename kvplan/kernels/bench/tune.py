"""What ``variants`` could choose otherwise, timed: tile sizes, warps, pipeline depth, splits, reduction.

A quarter of the shapes and a tenth of the time of the whole benchmark: it answers which defaults to change,
not how fast the kernels are. Rows go to the section ``tuning``: ``{key, point fields, choice, TIMING}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from kvplan.kernels.bench import workload
from kvplan.kernels.bench.points import GRID_FORMATS, Point
from kvplan.kernels.variants import Choice

if TYPE_CHECKING:
    from kvplan.kernels.bench.run import Run

LARGE = Point("tune", "decode", "bf16", 32, 8, 128, 32, 32768)
LONG = replace(LARGE, batch=1, context=131072)
SMALL = replace(LARGE, batch=1, context=2048)
MLA_LARGE = Point("tune", "mla", "mla_bf16", 16, 1, 576, 64, 16384)
MLA_LONG = replace(MLA_LARGE, batch=1, context=131072)
MLA_MANY = replace(MLA_LARGE, hq=128, context=8192)
PREFILL = Point("tune", "append", "bf16", 32, 8, 128, 1, 4096, new_tokens=4096)
USUAL = Choice()


@dataclass(frozen=True, slots=True)
class Trial:
    """One point under one choice."""

    point: Point
    choice: Choice

    @property
    def key(self) -> str:
        """Identity of a measurement, for resuming."""
        return f"{self.point.key}/{self.name}"

    @property
    def name(self) -> str:
        """The choice, in short."""
        chosen = [f"{name} {value}" for name, value in asdict(self.choice).items() if value is not None]
        return ", ".join([*chosen, *([] if self.point.fused else ["two launches"])]) or "as shipped"

    def small(self) -> Trial:
        """The same kernel with next to nothing to do, for compiling it ahead."""
        return replace(
            self, point=replace(self.point, batch=1, context=2048, new_tokens=min(256, self.point.new_tokens))
        )


def tiles() -> list[Choice]:
    """Decode tiles worth timing, the shipped one first."""
    found = [USUAL]
    for tokens, warps in ((64, 4), (128, 4), (128, 8)):
        found += [Choice(tokens=tokens, warps=warps, stages=stages) for stages in (1, 2, 3, 4)]
    return [*found, *(Choice(tokens=64, columns=16, stages=stages) for stages in (2, 3))]


def trials(tiny: bool) -> Iterator[Trial]:
    """Every trial, the most valuable formats first."""
    if tiny:
        point = Point("tune", "decode", "int4", 4, 1, 64, 2, 40, block_size=32)
        yield from (Trial(point, choice) for choice in (USUAL, Choice(tokens=32), Choice(each=2)))
        return
    for name in GRID_FORMATS:
        for point in (LARGE, LONG):
            yield from (Trial(replace(point, format=name), choice) for choice in tiles())
        for point in (LARGE, LONG, SMALL):
            for each in (1, 2, 4, 5, 6, 8):
                yield Trial(replace(point, format=name), Choice(each=each))
            for share in (128, 256, 512) if point is not LARGE else ():
                yield Trial(replace(point, format=name), Choice(share=share))
        for point in (LONG, SMALL):
            yield from (Trial(replace(point, format=name, fused=fused), USUAL) for fused in (True, False)
                        if not fused or point is SMALL)  # fmt: skip
    for name in ("mla_bf16", "mla_fp8"):
        for point in (MLA_LARGE, MLA_LONG):
            yield Trial(replace(point, format=name), USUAL)
            for tokens in (32, 64):
                for warps, stages in ((4, 1), (4, 2), (4, 3), (8, 1), (8, 2), (8, 3)):
                    choice = Choice(tokens=tokens, warps=warps, stages=stages)
                    yield Trial(replace(point, format=name), choice)
            yield from (Trial(replace(point, format=name), Choice(each=each)) for each in (1, 3, 4))
        yield Trial(replace(MLA_MANY, format=name), USUAL)
        for columns, warps in ((16, 4), (16, 8), (32, 4), (32, 8), (64, 8)):
            yield Trial(replace(MLA_MANY, format=name), Choice(columns=columns, warps=warps))
    for name in ("bf16", "fp8_e4m3", "int4"):
        yield Trial(replace(PREFILL, format=name), USUAL)
        for columns, warps in ((64, 4), (128, 4), (128, 8)):
            for tokens, stages in ((32, 2), (64, 2), (64, 3)):
                choice = Choice(tokens=tokens, columns=columns, warps=warps, stages=stages)
                yield Trial(replace(PREFILL, format=name), choice)


def perform(run: Run) -> None:
    """Compile every trial in the crew, then time it."""
    every = list(trials(run.tiny))
    left = [trial for trial in every if not run.record.has("tuning", trial.key)]
    small = {trial.small().key: trial.small() for trial in left}
    run.check([("warm", trial) for trial in small.values()])
    # A choice that does not fit the machine (shared memory, say) is a finding, not an error.
    run.record.body["correctness"] = [row for row in run.record.body["correctness"] if row["ok"]]
    run.each("tuning", every, lambda trial: trial.key, lambda trial: _time(run, trial), 1.0, "tuning")


def _time(run: Run, trial: Trial) -> dict[str, Any]:
    work = workload.build(trial.point, run.arena, run.l2_bytes, trial.choice)
    row = {name: value for name, value in trial.point.row().items() if name != "key"}
    return row | work.chosen | {"choice": trial.name} | run.timer.time(work.calls).row()


def table(body: dict[str, Any]) -> str:
    """The three best choices of every point, as shares of the shipped one's time; at most 80 columns."""
    points: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in body["tuning"]:
        if "median_s" in row:
            points.setdefault((row["op"], row["format"], row["batch"], row["context"]), []).append(row)
    lines = [f"device  {body['environment']['device']}; {len(body['tuning'])} trials", ""]
    for (op, name, batch, context), rows in points.items():
        usual = next((row["median_s"] for row in rows if row["choice"] == "as shipped"), None)
        rate = (
            "" if usual is None else f": {usual * 1e6:.1f} us, {rows[0]['kv_bytes'] / usual / 1e12:.3f} TB/s"
        )
        lines.append(f"{op} {name} {batch} x {context}{rate}")
        for row in sorted(rows, key=lambda row: float(row["median_s"]))[:3]:
            share = "" if usual is None else f"{row['median_s'] / usual:6.3f}"
            lines.append(f"   {share}  {row['choice']}")
    failed = [row for row in body["tuning"] if "message" in row]
    lines += [f"{len(failed)} choices do not run, the first: {failed[0]['message'][:60]}"] if failed else []
    return "\n".join(lines)
