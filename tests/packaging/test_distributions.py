"""Wheel, sdist and editable installs all find the bundled specs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

PROBE = """
from kvplan.resources import bundled_specs
from kvplan.specs.catalog import load_model
import kvplan
print(kvplan.__file__)
print(bundled_specs())
print(load_model("llama3-70b").name)
"""


def probe(cwd: Path, *, path: Path | None = None) -> list[str]:
    """What a fresh interpreter finds, with ``path`` before the installed packages."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("KVPLAN", "PYTHON"))
    }
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=cwd, env=environment, text=True, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def build(kind: str, source: Path, out: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out), str(source)],
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", PROJECT, tmp_path_factory.mktemp("wheel"))


def unpacked(wheel: Path, where: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(where)
    return where


def test_editable_install(tmp_path: Path) -> None:
    package, specs, name = probe(tmp_path)
    assert Path(package).is_relative_to(PROJECT)
    assert Path(specs) == PROJECT / "model_specs"
    assert name == "llama-3-70b"


def test_wheel(wheel: Path, tmp_path: Path) -> None:
    place = unpacked(wheel, tmp_path / "site")
    package, specs, name = probe(tmp_path, path=place)
    assert Path(package).is_relative_to(place)
    assert Path(specs).is_relative_to(place)
    assert name == "llama-3-70b"


def test_wheel_holds_what_the_code_reads(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for pattern in ("model_specs/models/", "model_specs/gpus/", "model_specs/links/", "reporting/templates/"):
        ours = {
            str(path.relative_to(PROJECT / (pattern if pattern.startswith("model") else f"kvplan/{pattern}")))
            for path in (PROJECT / (pattern if pattern.startswith("model") else f"kvplan/{pattern}")).rglob(
                "*"
            )
            if path.is_file() and path.suffix != ".pyc"
        }
        prefix = f"kvplan/_bundled/{pattern}" if pattern.startswith("model") else f"kvplan/{pattern}"
        assert ours
        assert {name.removeprefix(prefix) for name in names if name.startswith(prefix)} >= ours
    assert not any(name.startswith("tests/") for name in names)


def test_sdist(tmp_path: Path) -> None:
    import tarfile

    archive = build("sdist", PROJECT, tmp_path / "sdist")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    place = unpacked(build("wheel", source, tmp_path / "rebuilt"), tmp_path / "site")
    package, specs, name = probe(tmp_path, path=place)
    assert Path(package).is_relative_to(place)
    assert Path(specs).is_relative_to(place)
    assert name == "llama-3-70b"
