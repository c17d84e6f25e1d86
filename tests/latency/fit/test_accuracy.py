"""Held-out accuracy on real tables: the bars that kernels never timed must meet."""

import json
from pathlib import Path

import pytest

from kvplan.latency.fit.accuracy import Score, main, report_text, score_families
from kvplan.latency.fit.tables import read_measurements
from kvplan.latency.fit.unseen import UnseenScore
from kvplan.latency.fit.unseen_report import unseen_text
from kvplan.latency.fit.unseen_steps import StepScore
from kvplan.specs.catalog import load_gpu


def scores_of(shared, path, **labels):
    """Scores of the families with these labels (all of them take minutes: ``make accuracy``)."""
    families = read_measurements([shared / "data" / "latency" / "kernel_tables" / path]).families
    chosen = [family for family in families if labels.items() <= family.labels.items()]
    return [score for family in chosen for score in score_families([family], load_gpu(family.device))]


def pick(scores, part, **labels):
    found = [s for s in scores if s.part == part and labels.items() <= s.labels.items()]
    assert len(found) == 1, [s.labels for s in found]
    return found[0]


@pytest.mark.shared
@pytest.mark.slow
def test_decode_attention_on_h100_from_120_shapes(shared):
    scores = scores_of(
        shared, "h100_sxm/attention/vllm/0.24.0/generation_attention_perf.parquet", head_dim="128"
    )
    for dtype in ("bfloat16", "fp8"):
        for part in ("all", "full attention"):
            score = pick(scores, part, kv_cache_dtype=dtype, head_dim="128")
            assert score.trained <= 120
            assert score.tested > 6_000
            assert score.median <= 0.04
            assert score.p90 <= 0.12
            assert 0.85 <= score.coverage <= 0.98
        large = pick(scores, "full attention, KV > 100 MB", kv_cache_dtype=dtype, head_dim="128")
        assert large.median <= 0.025


@pytest.mark.shared
@pytest.mark.slow
def test_decode_attention_on_a100_from_120_shapes(shared):
    scores = scores_of(shared, "a100_sxm/attention/vllm/0.14.0/generation_attention_perf.parquet")
    score = pick(scores, "all")
    assert score.trained <= 120
    assert score.tested > 5_000
    assert score.median <= 0.04
    assert score.p90 <= 0.12
    assert 0.85 <= score.coverage <= 0.95


@pytest.mark.shared
@pytest.mark.slow
def test_prefill_attention_and_multiplications_on_a100(shared):
    (prefill,) = scores_of(shared, "a100_sxm/attention/vllm/0.14.0/context_attention_perf.parquet")
    assert prefill.median <= 0.10
    gemm = scores_of(shared, "a100_sxm/gemm/vllm/0.14.0/gemm_perf.parquet")
    assert pick(gemm, "n, k >= 1024").median <= 0.07


def test_the_command_scores_a_table_and_writes_both_files(decode_case, tmp_path, capsys):
    import pandas as pd

    _, _, shapes, seconds = decode_case
    keep = slice(None, None, 3)
    frame = pd.DataFrame(
        {"op_name": "generation_attention", "kernel_source": "mine", "device": "l4", "framework": "mine",
         "version": "1", "kv_cache_dtype": "bfloat16", "batch_size": shapes["batch"], "isl": 0,
         "step": shapes["ctx"], "num_heads": shapes["q_heads"], "num_key_value_heads": shapes["kv_heads"],
         "head_dim": 128, "latency": seconds * 1e3 * 10}
    )[keep]  # fmt: skip
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert main([str(tmp_path / "t.csv"), "-o", str(tmp_path / "out"), "--points", "40"]) == 0
    out = capsys.readouterr().out
    body = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert body["schema"] == "kvplan.accuracy/1"
    assert body["scores"][0]["trained"] == 40
    assert body["scores"][0]["trained"] + body["scores"][0]["tested"] == len(frame)
    assert (tmp_path / "out" / "report.md").read_text(encoding="utf-8") == out
    assert main([str(tmp_path / "nothing")]) == 1


def test_the_published_report_is_what_its_results_render_to():
    folder = Path(__file__).resolve().parents[3] / "reports" / "accuracy"
    body = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    measured = report_text([Score(**score) for score in body["scores"]], body["points"])
    unseen = unseen_text(
        [UnseenScore(**score) for score in body["unseen_gpu"]],
        body["unseen_gpu_left_out"],
        [StepScore(**score) for score in body["unseen_gpu_steps"]],
    )
    assert (folder / "report.md").read_text(encoding="utf-8") == f"{measured}\n{unseen}"


def test_the_published_figures_meet_their_bars():
    body = json.loads((Path(__file__).resolve().parents[3] / "reports/accuracy/results.json").read_text())
    whole = [Score(**score) for score in body["scores"] if score["part"] == "all"]
    # Coverage of a family with three dozen test shapes is a rough figure.
    large = [score for score in whole if score.tested >= 100]
    assert all(0.85 <= score.coverage <= 0.99 for score in large)
    pooled = sum(score.coverage * score.tested for score in whole) / sum(score.tested for score in whole)
    assert 0.88 <= pooled <= 0.93
    for kind in ("gemm", "decode", "prefill"):
        found = [UnseenScore(**score) for score in body["unseen_gpu"] if score["kind"] == kind]
        by_gpu = [
            sum(s.coverage * s.tested for s in found if s.gpu == gpu)
            / sum(s.tested for s in found if s.gpu == gpu)
            for gpu in ("h100-sxm", "a100-80g")
        ]
        assert 0.85 <= sum(by_gpu) / 2 <= 0.95


def test_a_report_without_scores_is_still_a_report():
    assert report_text([], 120).startswith("# Accuracy")
