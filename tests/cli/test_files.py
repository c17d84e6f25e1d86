"""Files that commands write: whole or not at all, devices stay devices, nothing is read and overwritten."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from kvplan.cli.app import run
from kvplan.cli.files import check_outputs, written
from kvplan.errors import DataError, UsageError


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "out.txt"
    with written(target) as stream:
        stream.write("one\n")
        assert not target.exists()
    assert target.read_text() == "one\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


@pytest.mark.parametrize("fault", [KeyboardInterrupt, ValueError])
def test_a_failure_leaves_the_old_file_and_no_draft(tmp_path: Path, fault: type[BaseException]) -> None:
    target = tmp_path / "out.txt"
    target.write_text("old")

    def fail() -> None:
        with written(target) as stream:
            stream.write("half")
            raise fault

    with pytest.raises(fault):
        fail()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


def test_links_and_modes_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    with written(link) as stream:
        stream.write("new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_a_pipe_is_written_to_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with written(pipe) as stream:
        stream.write("through\n")
    reader.join(10)
    assert read == ["through\n"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_errors_name_the_target(tmp_path: Path) -> None:
    target = tmp_path / "absent" / "out.txt"
    with pytest.raises(OSError, match="No such file") as caught, written(target):
        pass
    assert caught.value.filename == str(target)


def test_outputs_are_refused_before_the_work(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("{}")
    os.link(trace, tmp_path / "same.jsonl")
    both = str(tmp_path / "both.json")
    with pytest.raises(UsageError, match="-o would overwrite the trace"):
        check_outputs({"-o": str(tmp_path / "same.jsonl")}, {"the trace": str(trace)})
    with pytest.raises(UsageError, match="overwrite each other"):
        check_outputs({"-o": both, "--html": str(tmp_path / "." / "both.json")}, {})
    with pytest.raises(UsageError, match="both be standard output"):
        check_outputs({"-o": "-", "--requests": "-"}, {})
    with pytest.raises(DataError, match="no directory"):
        check_outputs({"-o": str(tmp_path / "absent" / "x.json")}, {})
    with pytest.raises(DataError, match="directory"):
        check_outputs({"-o": str(tmp_path)}, {})
    with pytest.raises(UsageError, match="names no file"):
        check_outputs({"-o": ""}, {})
    assert check_outputs({"-o": both, "--html": "-", "--requests": None}, {"the trace": "-"}) == "--html"
    assert not Path(both).exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
@pytest.mark.parametrize("name", ["/proc/x.json", "/proc/version", "/proc/self/x.json"])
def test_a_place_where_no_file_can_be_made_is_refused_before_the_work(name: str) -> None:
    with pytest.raises(DataError, match="-o") as caught:
        check_outputs({"-o": name}, {})
    assert caught.value.where == name


def test_the_trial_leaves_nothing_behind(tmp_path: Path) -> None:
    assert check_outputs({"-o": str(tmp_path / "x")}, {}) is None
    assert list(tmp_path.iterdir()) == []


def test_conversion_into_a_pipe_and_into_a_missing_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, pipe = tmp_path / "trace.jsonl", tmp_path / "pipe"
    assert run(["trace", "synthesize", "chat", "-n", "5", "-o", str(trace)]) == 0
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    assert run(["trace", "convert", str(trace), str(pipe)]) == 0
    reader.join(10)
    assert len(read[0].splitlines()) == 5
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    capsys.readouterr()
    target = str(tmp_path / "absent" / "x.jsonl")
    assert run(["trace", "convert", str(trace), target]) == 1
    err = capsys.readouterr().err
    assert target in err
    assert "tmp." not in err


SHAPE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000,
    "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (["simulate", "s.yaml", "-o", "t.csv"], "the trace"),
        (["sweep", "s.yaml", "--vary", "seed=1,2", "-o", "t.csv"], "the trace"),
        (["sweep", "s.yaml", "--highest", "workload.rate_scale=1..2", "--html", "link"], "the trace"),
        (["plan", "s.yaml", "--gpu", "h100-sxm", "-o", "t.csv"], "the trace"),
        (["simulate", "s.yaml", "-o", "config.json"], "the model"),
        (
            ["sweep", "s.yaml", "--vary", "model=./config.json,llama-3.1-8b", "--html", "config.json"],
            "the model",
        ),
        (["plan", "s.yaml", "--gpu", "h100-sxm", "--html", "s.yaml"], "the scenario"),
        (["simulate", "s.yaml", "--set", "latency={model: fitted, name: fit}", "-o", "fit"], "the clock"),
    ],
)
def test_nothing_is_written_over_what_a_scenario_names(
    command: list[str],
    what: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the file stands in the scenario and not among the options."""
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text(json.dumps(SHAPE))
    Path("t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,100,10\n1,100,10\n")
    Path("fit").write_text("{}")
    Path("link").symlink_to("t.csv")
    Path("s.yaml").write_text(
        "model: ./config.json\ngpu: h100-sxm\nworkload: {trace: t.csv}\nslo: {ttft_p99_s: 10}\n"
    )
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert run(command) == 2
    assert f"would overwrite {what}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
