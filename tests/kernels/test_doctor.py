"""``kvplan doctor`` tells the truth, with and without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from kvplan.cli.app import run
from kvplan.errors import EnvironmentLacks, UnknownName
from kvplan.kernels import doctor
from kvplan.kernels.formats import all_formats

HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "triton"):
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Hide())
from kvplan.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


def without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HIDE, *arguments], capture_output=True, text=True, check=False
    )


def test_every_format_is_listed():
    assert [f["name"] for f in doctor.examine()["formats"]] == [fmt.name for fmt in all_formats()]


@pytest.mark.parametrize("style", ["table", "json"])
def test_it_answers_without_torch(style: str):
    done = without_torch("doctor", "--format", style)
    assert done.returncode == 0, done.stderr
    assert "kivi2" in done.stdout
    if style == "json":
        found = json.loads(done.stdout)
        assert found["torch"]["version"] is None
        assert not any(f["reference"] or f["triton"] for f in found["formats"])
    if style == "table":
        assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_requirement_that_is_missing_exits_4_and_says_how_to_get_it():
    done = without_torch("doctor", "--require", "torch")
    assert done.returncode == 4
    assert "pip install 'kvplan[gpu]'" in done.stderr


def test_an_unknown_requirement_is_a_usage_error(capsys):
    assert run(["doctor", "--require", "tourch"]) == 2
    assert "did you mean torch" in capsys.readouterr().err


@pytest.fixture
def hopper():
    """Findings as they would be on a machine with one H100."""
    found = doctor.examine()
    found["torch"] = found["triton"] = {"version": "1", "problem": None}
    found["backends"][-1] |= {"runs": True, "why_not": None}
    found["formats"] = [f | {"triton": True, "why_not": None} for f in found["formats"]]
    return found


def test_requirements_that_are_met_pass(hopper):
    for wanted in ("torch", "triton", "gpu", "int4"):
        doctor.require(hopper, wanted)


def test_a_format_that_cannot_run_is_named(hopper):
    hopper["formats"][0] |= {"why_not": "needs compute capability 8.0"}
    with pytest.raises(EnvironmentLacks, match="bf16 cannot run here: needs compute"):
        doctor.require(hopper, "bf16")
    with pytest.raises(UnknownName):
        doctor.require(hopper, "int5")


def test_a_broken_torch_is_reported_not_raised(monkeypatch):
    def explode(name: str):
        raise OSError("libcudart.so: cannot open")

    monkeypatch.setattr(doctor, "import_module", explode)
    found = doctor.examine()
    assert "libcudart" in found["torch"]["problem"]
    assert not found["backends"][1]["runs"]


@pytest.mark.parametrize("style", ["csv", "md"])
def test_tables_for_machines_and_documents(style: str, capsys):
    assert run(["doctor", "--format", style]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(all_formats()) + (1 if style == "csv" else 2)
    (bf16,) = (line for line in lines if line.strip("| ").startswith("bf16"))
    assert ("true" in bf16 and "4096" in bf16) if style == "csv" else ("yes" in bf16 and "4,096" in bf16)
