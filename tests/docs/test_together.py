"""README's table of what goes together is what the command says."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvplan.cli.app import run

README = Path(__file__).resolve().parents[2] / "README.md"
ENGINES = {"both": {"vllm", "sglang"}, "neither": set(), "vLLM": {"vllm"}, "SGLang": {"sglang"}}
HYBRIDS = ("gpt-oss-20b", "qwen3-next-80b-a3b")
ASKED = {
    "`speculative`": "speculative={method: mtp, tokens: 1, acceptance: 0.7}",
    "hybrid models": "",
    "`dp_attention`": "parallel.dp_attention=true",
    "`disaggregation`": "disaggregation={prefill: {instances: 1}, decode: {instances: 1}}",
    "vLLM's or SGLang's own host memory": "tiers={host: {memory: 64GB, connector: offloading}}",
    "`tiers` of kvplan's": "tiers={host: {memory: 64GB}}",
    "priorities": "engine.policy=priority",
    "`replicas` and routers": "parallel.replicas=2",
    "clients that give up": "workload.timeout_s=5",
    "`cp`": "parallel.cp=2",
}
OF_SGLANG = {
    "vLLM's or SGLang's own host memory": "tiers={host: {memory: 64GB, write: through}}",
    # A host tier alone is SGLang's own.
    "`tiers` of kvplan's": "tiers={host: {memory: 64GB}, disk: {memory: 1TB}}",
    "priorities": "engine.enable_priority_scheduling=true",
}


def cells() -> list[tuple[str, str, str]]:
    """(row, column, what the cell says) of the table."""
    lines = README.read_text().split("| | `speculative` |")[1].splitlines()
    columns = [word.strip() for word in lines[0].split("|")[:-1]]
    found = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        row, *said = (word.strip() for word in line.split("|")[1:-1])
        found += [(row, column, cell) for column, cell in zip(["`speculative`", *columns], said, strict=True)]
    return [cell for cell in found if cell[2]]


def goes(engine: str, row: str, column: str, model: str) -> bool:
    asked = [
        OF_SGLANG.get(name, ASKED[name]) if engine == "sglang" else ASKED[name] for name in (row, column)
    ]
    # Of gpt-oss nobody has prediction layers.
    if model == HYBRIDS[0] and "speculative" in f"{row} {column}":
        asked = [word.replace("method: mtp", "method: ngram") for word in asked]
    if engine == "sglang" and any("ngram" in word for word in asked):
        return goes(engine, row, column, HYBRIDS[1])
    words = [word for item in asked if item for word in ("--set", item)]
    code = run([
        "simulate", "--model", model, "--gpu", "h200-sxm", "--tp", "8" if model == "deepseek-v3" else "4",
        "--ctx", "8k", "--engine", engine, "--synthesize", "fixed", "--limit", "1",
        "--set", "accuracy.ensemble=0", *words,
    ])  # fmt: skip
    assert code in (0, 2)
    return code == 0


@pytest.mark.parametrize(("row", "column", "said"), cells())
def test_what_goes_together(row: str, column: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    models = HYBRIDS if "hybrid models" in (row, column) else ("deepseek-v3",)
    for model in models:
        found = {engine for engine in ("vllm", "sglang") if goes(engine, row, column, model)}
        assert found == ENGINES[said], model
    capsys.readouterr()
