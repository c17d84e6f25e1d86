"""The GPU benchmark's plumbing, on the CPU: points, hold-out, record, resuming, summary, exit codes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from kvplan.errors import DataError  # noqa: E402
from kvplan.kernels import benchmark, mla_cache, reference  # noqa: E402
from kvplan.kernels.batch import PagedBatch  # noqa: E402
from kvplan.kernels.bench import arena, correctness, points, summary, tune, workload  # noqa: E402
from kvplan.kernels.bench.record import SECTIONS, Record  # noqa: E402
from kvplan.kernels.bench.run import DeviceLost, Run, perform  # noqa: E402
from kvplan.kernels.bench.timer import DryTimer, summarise  # noqa: E402
from kvplan.kernels.formats import all_formats  # noqa: E402
from kvplan.kernels.variants import Target  # noqa: E402

ENVIRONMENT = {"device": "cpu", "kernels": "k", "torch": "t", "triton": "3", "dry_run": True, "l2_bytes": 0}


@pytest.fixture(scope="module")
def measured(tmp_path_factory, request):
    """One dry run's file and exit code."""
    request.getfixturevalue("interpreter")
    path = tmp_path_factory.mktemp("bench") / "m.json"
    return path, benchmark.main(["--dry-run", "-o", str(path)])


@pytest.mark.slow
def test_a_dry_run_measures_every_stage_and_succeeds(measured):
    path, code = measured
    body = json.loads(path.read_text())
    assert code == 0
    assert body["schema"] == "kvplan.kernel-measurements/1"
    assert body["complete"] is True
    assert body["failures"] == []
    assert {p["stage"] for p in body["points"]} >= {
        "grid",
        "holdout",
        "window",
        "ragged",
        "prefill",
        "mla",
        "write",
    }
    assert all(row["ok"] for row in body["correctness"])
    assert {"copy", "read"} <= {row["key"] for row in body["ceilings"]}
    for row in body["points"]:
        assert row["median_s"] > 0
        assert row["kv_bytes"] > 0
    assert "DRY RUN" in summary.table(body)


@pytest.mark.slow
def test_a_second_run_measures_nothing_again(measured, capsys):
    path, _ = measured
    before = json.loads(path.read_text())
    assert benchmark.main(["--dry-run", "-o", str(path)]) == 0
    after = json.loads(path.read_text())
    assert [len(after[s]) for s in SECTIONS] == [len(before[s]) for s in SECTIONS]
    assert "0 checked" in capsys.readouterr().err


@pytest.mark.slow
def test_out_of_time_is_incomplete_and_a_wrong_result_fails(tmp_path, interpreter, monkeypatch, capsys):
    monkeypatch.setattr(correctness, "jobs", lambda tiny, p: [("write", "no-such-format")])
    code = benchmark.main(["--dry-run", "-o", str(tmp_path / "m.json"), "--minutes", "0"])
    body = json.loads((tmp_path / "m.json").read_text())
    assert code == 1
    assert body["complete"] is False
    assert body["points"] == []
    assert "WRONG write/no-such-format" in capsys.readouterr().out


@pytest.mark.slow
def test_what_a_dead_process_was_measuring_is_left_out_by_the_next(tmp_path, interpreter, monkeypatch):
    monkeypatch.setattr(correctness, "jobs", lambda tiny, p: [])
    path = tmp_path / "m.json"
    deadly = points.tiny()[0].key
    (tmp_path / "m.json.now").write_text(deadly)
    assert benchmark.main(["--dry-run", "--continue", "-o", str(path)]) == 1
    body = json.loads(path.read_text())
    assert [row["key"] for row in body["failures"]] == [deadly]
    assert {p["key"] for p in body["points"]} == {p.key for p in points.tiny()} - {deadly}
    # Called anew, it is tried again.
    assert benchmark.main(["--dry-run", "-o", str(path)]) == 0
    assert deadly in {p["key"] for p in json.loads(path.read_text())["points"]}


def test_a_lost_device_ends_the_process_with_everything_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(correctness, "device_lost", lambda: True)
    path = tmp_path / "m.json"
    work = Run(
        Record.open(path, ENVIRONMENT), "cpu", DryTimer(), 60.0, tiny=True, marker=tmp_path / "m.json.now"
    )
    work.device = "cuda"

    def measure(name: str) -> dict[str, object]:
        assert (tmp_path / "m.json.now").read_text() == name
        if name == "b":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return {"median_s": 1.0}

    with pytest.raises(DeviceLost, match="illegal memory access"):
        work.each("stage", ["a", "b", "c"], str, measure, 1.0, "points")
    body = json.loads(path.read_text())
    assert [row["key"] for row in body["points"]] == ["a"]
    assert [row["key"] for row in body["failures"]] == ["b"]
    assert not (tmp_path / "m.json.now").exists()


@pytest.mark.slow
def test_tuning_times_every_choice_and_names_the_best(tmp_path, interpreter, capsys):
    path = tmp_path / "m.json"
    assert benchmark.main(["--dry-run", "--tune", "-o", str(path)]) == 0
    rows = json.loads(path.read_text())["tuning"]
    assert [row["choice"] for row in rows] == ["as shipped", "tokens 32", "each 2"]
    assert all(row["median_s"] > 0 for row in rows)
    assert "1.000  as shipped" in capsys.readouterr().out


def test_trials_are_few_enough_and_each_comes_once():
    every = list(tune.trials(tiny=False))
    assert len({trial.key for trial in every}) == len(every)
    assert 150 < len(every) < 450
    assert {trial.point.op for trial in every} == {"decode", "mla", "append"}
    shipped = {
        (t.point.op, t.point.format, t.point.batch, t.point.context) for t in every if t.name == "as shipped"
    }
    assert shipped == {(t.point.op, t.point.format, t.point.batch, t.point.context) for t in every}


def test_the_table_of_trials_ranks_them():
    row = {"op": "decode", "format": "int4", "batch": 1, "context": 9, "kv_bytes": 100, "median_s": 2e-6}
    rows = [row | {"choice": "as shipped"}, row | {"choice": "each 4", "median_s": 1e-6}]
    rows += [row | {"choice": f"stages {i}", "median_s": 3e-6} for i in range(3)]
    del row["median_s"]
    rows.append(row | {"choice": "tokens 999", "message": "out of resource: shared memory"})
    text = tune.table({"environment": {"device": "X"}, "tuning": rows})
    assert text.index(" 0.500  each 4") < text.index(" 1.000  as shipped") < text.index(" 1.500  stages 0")
    assert "stages 1" not in text
    assert "1 choices do not run, the first: out of resource" in text


def test_caches_cut_from_the_arena_share_nothing_and_hold_finite_numbers():
    memory = arena.Arena("cpu")
    for fmt in all_formats():
        shape = {"num_blocks": 3, "block_size": 64}
        if not fmt.latent:
            shape |= {"kv_heads": 2, "head_dim": 128, "max_sequences": 1}
        caches = memory.caches(fmt, 3, shape)
        spans = []
        for cache in caches:
            for t in cache.tensors()[:-1]:
                assert t.data_ptr() % 16 == 0
                assert t.is_contiguous()
                if t.numel():
                    spans.append((t.data_ptr(), t.data_ptr() + t.nbytes))
            batch = PagedBatch.build(
                torch.tensor([[2, 0, 1]], dtype=torch.int32), torch.tensor([190], dtype=torch.int32)
            )
            read = mla_cache.gather if fmt.latent else reference.gather
            assert all(
                bool(x.isfinite().all()) and float(x.std()) > 0 for x in read(cache, batch, 0, torch.float32)
            )
        spans.sort()
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


def test_the_caches_of_the_side_points_leave_room_on_a_gpu(monkeypatch):
    held = {}

    def reserve(self, kind: str, size: int) -> None:
        held[kind] = max(size, held.get(kind, 0))
        self._held[kind] = torch.empty(held[kind], dtype=torch.uint8, device="meta")

    monkeypatch.setattr(arena.Arena, "_reserve", reserve)
    memory = arena.Arena("meta")
    monkeypatch.setattr(workload.launch, "splits_for", lambda *_, **__: 1)
    monkeypatch.setattr(workload.launch_mla, "splits_for", lambda *_, **__: 1)
    for p in points.side():
        workload.build(p, memory, l2_bytes=60 << 20)
    # The largest peer takes 17 GB beside them, and the GPU with the least memory has 40.
    assert sum(held.values()) < 20e9


@pytest.mark.parametrize("new", [1, 20])
def test_only_the_pages_in_a_window_have_memory(interpreter, monkeypatch, new):
    p = points.Point("window", "append" if new > 1 else "decode", "int8", 2, 1, 64, 2, 200, block_size=16,
                     window=40, new_tokens=new)  # fmt: skip
    seen = workload.pages_seen(p, 200)
    assert 16 * seen.start <= 200 - new + 1 - 40 < 16 * (seen.start + 1)
    assert seen.stop == 13
    assert workload.pages_seen(replace(p, window=0), 200) == range(13)
    given = []
    attend = workload.launch.attend
    monkeypatch.setattr(
        workload.launch, "attend", lambda *a, **k: (given.append(a), attend(a[0].float(), *a[1:], **k))[1]
    )
    out, lse = workload.build(p, arena.Arena("cpu"), 0).calls[0]()
    query, cache, batch = given[0]
    assert cache.num_blocks == 2 * len(seen)
    assert sorted(batch.block_table[:, seen.start : seen.stop].flatten().tolist()) == list(
        range(2 * len(seen))
    )
    expected, expected_lse = reference.attention(query, cache, batch, window=40)
    assert torch.allclose(out, expected, atol=1e-4)
    assert torch.allclose(lse, expected_lse, atol=1e-4)


def test_without_a_gpu_it_says_so_and_exits_4(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert benchmark.main(["-o", str(tmp_path / "m.json")]) == 4
    assert "no CUDA device" in capsys.readouterr().err


def test_measurements_of_other_kernels_are_not_mixed(tmp_path):
    record = Record.open(tmp_path / "m.json", ENVIRONMENT)
    record.add("ceilings", {"key": "copy"})
    record.save()
    assert Record.open(tmp_path / "m.json", ENVIRONMENT).has("ceilings", "copy")
    with pytest.raises(DataError, match="measurements are not mixed"):
        Record.open(tmp_path / "m.json", ENVIRONMENT | {"kernels": "other"})
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(DataError, match="not a measurement file"):
        Record.open(tmp_path / "m.json", ENVIRONMENT)


def test_wrong_and_failed_rows_are_tried_again(tmp_path):
    record = Record.open(tmp_path / "m.json", ENVIRONMENT)
    record.add("correctness", {"key": "a", "ok": False})
    record.add("correctness", {"key": "b", "ok": True})
    record.fail("grid", "c", "boom")
    record.save()
    again = Record.open(tmp_path / "m.json", ENVIRONMENT)
    assert not again.has("correctness", "a")
    assert again.has("correctness", "b")
    assert not again.gave_up("c")
    going_on = Record.open(tmp_path / "m.json", ENVIRONMENT, retry=False)
    assert going_on.has("correctness", "a")
    assert going_on.gave_up("c")


def test_what_was_compiled_ahead_is_compiled_again_by_the_next_call(tmp_path, monkeypatch):
    record = Record.open(tmp_path / "m.json", ENVIRONMENT)
    for kind in ("case", "warm"):
        record.add("correctness", {"key": f"{kind}/a", "kind": kind, "ok": True})
    record.save()
    assert Record.open(tmp_path / "m.json", ENVIRONMENT, retry=False).has("correctness", "warm/a")
    again = Record.open(tmp_path / "m.json", ENVIRONMENT)
    assert again.has("correctness", "case/a")
    assert not again.has("correctness", "warm/a")
    # But not for what has been timed.
    for p in (*points.grid(), *points.holdout()):
        again.add("points", {"key": p.key})
    asked = []
    monkeypatch.setattr(correctness, "jobs", lambda tiny, left: asked.extend(left) or [])
    perform(Run(again, "cpu", DryTimer(), -1.0, tiny=False))
    assert {p.stage for p in asked} == {p.stage for p in points.side()}


def test_the_grid_is_the_registered_one():
    grid, hold, side = list(points.grid()), points.holdout(), list(points.side())
    assert len(grid) > 500
    assert len(hold) == 40
    assert hold == points.holdout()
    every = [*grid, *hold, *side, *points.drift(0), *points.drift(1)]
    assert len({p.key for p in every}) == len(every)
    assert all(p.kv_bytes() <= points.MOST_BYTES for p in (*grid, *hold))
    # Off the grid: no hold-out point shares its shape with a grid point.
    shapes = {(p.format, p.hq, p.hkv, p.batch, p.context) for p in grid}
    assert not any((p.format, p.hq, p.hkv, p.batch, p.context) in shapes for p in hold)
    assert {p.op for p in hold} == {"decode", "mla", "append"}
    prefills = {(p.format, p.new_tokens, p.context) for p in side if p.op == "append"}
    assert not prefills & {(p.format, p.new_tokens, p.context) for p in hold}


def test_the_hold_out_stays_as_it_was_registered():
    # Drawn before anything was measured. Whoever changes it after a measurement must not call it a hold-out.
    listed = json.dumps([p.key for p in points.holdout()]).encode()
    assert hashlib.sha256(listed).hexdigest()[:16] == "551f231dd6e5a89f"


def test_the_points_that_the_targets_are_about_come_first():
    first = [p for p in points.grid() if points.headline(p)]
    assert {p.format for p in first if p.kv_bytes() >= points.LARGE_BYTES} == set(points.GRID_FORMATS)
    assert {p.format for p in first if p.kv_bytes() < points.SMALL_BYTES} == set(points.GRID_FORMATS)
    assert all(p.d == 128 and p.hq > p.hkv for p in first)
    assert len(first) < 250


def test_bytes_and_operations_of_a_point():
    p = points.Point("grid", "decode", "bf16", 32, 8, 128, 4, 1000)
    assert p.kv_bytes() == 4 * 1000 * 8 * 128 * 2 * 2
    assert p.io_bytes() == 4 * 32 * 128 * 2 * 2
    assert p.flops() == 4 * 4 * 32 * 1000 * 128
    windowed = points.Point("window", "decode", "bf16", 32, 8, 128, 4, 1000, window=100)
    assert windowed.kv_bytes() == p.kv_bytes() // 10
    prefill = points.Point("prefill", "append", "bf16", 1, 1, 128, 1, 3, new_tokens=3)
    assert prefill.flops() == 4 * 128 * (1 + 2 + 3)


def test_every_check_has_a_name_of_its_own():
    every = [correctness.key_of(job) for job in correctness.jobs(False, list(points.grid()))]
    assert len(set(every)) == len(every)


@pytest.fixture
def compiled(monkeypatch):
    """What a point's launches would compile on an H100, as (kernel, constants); nothing is launched."""
    found: set[tuple[str, str]] = set()

    class Kernel:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *_, **constants: found.add((self.name, str(sorted(constants.items(), key=str))))

    def reserve(self, kind: str, size: int) -> None:
        self._held[kind] = torch.empty(size, dtype=torch.uint8, device="meta")

    monkeypatch.setattr(arena.Arena, "_reserve", reserve)
    for module in (workload.launch, workload.launch_mla):
        monkeypatch.setattr(module, "target", lambda *_: Target(90, triton=(3, 6)))
        monkeypatch.setattr(module, "multiprocessors", lambda *_: 132)
    monkeypatch.setattr(workload.launch.attend_kernel, "attend", Kernel("attend"))
    monkeypatch.setattr(workload.launch.reduce_kernel, "reduce", Kernel("reduce"))
    monkeypatch.setattr(workload.launch_mla.mla_kernel, "mla", Kernel("mla"))
    memory = arena.Arena("meta")

    def of(point: points.Point) -> set[tuple[str, str]]:
        found.clear()
        workload.build(point, memory, 0).calls[0]()
        return set(found)

    return of


def test_every_variant_is_compiled_before_it_is_timed(compiled):
    every = [*points.grid(), *points.holdout(), *points.side()]
    warmed = correctness.variants_of(every)
    assert len(warmed) < 310
    assert {(p.op, p.format, p.d) for p in every} == {(p.op, p.format, p.d) for p in warmed}
    ahead = set().union(*(compiled(p) for p in warmed if not p.op.endswith("write")))
    late = [p.key for p in every if not p.op.endswith("write") and not compiled(p) <= ahead]
    assert late == []


def test_peers_are_compared_at_their_own_shapes():
    shape = {"op": "decode", "hq": 32, "hkv": 8, "d": 128, "batch": 4, "context": 9, "new_tokens": 1}
    ours = {
        **shape,
        "stage": "grid",
        "format": "bf16",
        "median_s": 3.0,
        "kv_bytes": 9e6,
        "window": 0,
        "ragged": 0,
    }
    body = {
        "environment": {"device": "X"}, "correctness": [], "ceilings": [], "failures": [], "complete": True,
        "points": [ours, ours | {"format": "int4", "median_s": 1.0}, ours | {"context": 8, "median_s": 7.0}],
        "peers": [{**shape, "peer": "sdpa", "median_s": 2.0}, {**shape, "peer": "other", "message": "no"}],
    }  # fmt: skip
    text = summary.table(body)
    assert "decode, bf16 over sdpa, time" in text
    assert [line.split()[-2:] for line in text.splitlines() if "sdpa" in line] == [
        ["1.50", "1"],
        ["0.50", "1"],
    ]
    assert "other" not in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_quartiles():
    timing = summarise([1.0, 2.0, 3.0, 4.0, 5.0], 7)
    assert (timing.median_s, timing.p25_s, timing.p75_s, timing.least_s) == (3.0, 2.0, 4.0, 1.0)
    assert timing.calls_per_repetition == 7
