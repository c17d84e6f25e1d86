"""The package's face: what it exports is listed, documented, lazy and real."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kvplan


def test_everything_listed_exists_and_is_documented() -> None:
    assert sorted(kvplan.__all__) == kvplan.__all__ or len(set(kvplan.__all__)) == len(kvplan.__all__)
    for name in kvplan.__all__:
        assert getattr(kvplan, name).__doc__, name
        assert f"``{name}``" in (kvplan.__doc__ or ""), name
    assert set(kvplan.__all__) == set(kvplan._HOMES)


def test_nothing_else_is_there() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        kvplan.no_such_thing  # noqa: B018


def test_importing_the_package_imports_nothing() -> None:
    script = (
        "import sys; before = set(sys.modules); import kvplan; new = set(sys.modules) - before; "
        "assert not {n for n in new if n.split('.')[0] in ('numpy', 'pydantic', 'yaml', 'typer', 'torch')}, new"
    )
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_library_user_can_size_and_simulate() -> None:
    model = kvplan.load_model("llama3-70b")
    assert kvplan.size_model(model, context_tokens=131_072, kv="fp16").kv_bytes_per_sequence == 42_949_672_960
    run = kvplan.Run(
        kvplan.load_scenario(
            None,
            {"cache.blocks": 500, "latency.model": "linear", "latency.a": 0.01, "latency.b": 0.0, "latency.c": 0.0,
             "workload.synthesize": "fixed", "workload.requests": 20},
        )
    )  # fmt: skip
    run.execute()
    assert kvplan.Result.model_validate(run.result([])).totals.finished == 20
