"""The front door: streams, pipes, signals of the shell, and how errors are worded."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

from kvplan.cli.app import VERBS, run

KVPLAN = f"{sys.executable} -m kvplan"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.replace("kvplan", KVPLAN)],
        capture_output=True, text=True, timeout=60, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "lines"), [("trace synthesize chat -n 3000 | head -1", 1), ("models list | true", 0)]
)
def test_a_reader_that_has_enough_ends_it_without_a_word(command: str, lines: int) -> None:
    """With what a shell sees of a tool that SIGPIPE ends: 0 would say that the answer is yes."""
    done = shell(f"kvplan {command}")
    assert (done.returncode, len(done.stdout.splitlines())) == (141, lines)
    assert "error" not in done.stderr


@pytest.mark.parametrize(("model", "code"), [("llama-3.1-8b", 3), ("no-such-model", 2)])
def test_what_is_the_matter_is_told_by_the_code_where_nobody_reads(model: str, code: int) -> None:
    done = shell(f"kvplan fit {model} --gpu rtx-4090 2>&1 | true", PYTHONUNBUFFERED="")
    assert done.returncode == code


@pytest.mark.parametrize("form", ["table", "json"])
def test_an_answer_into_a_closed_stream_is_an_error(form: str) -> None:
    for redirection, code in ((">&-", 1), ("2>&-", 0), (">&- 2>&-", 1), ("<&- >&-", 1)):
        done = shell(f"kvplan size llama3-8b -f {form} {redirection}")
        assert done.returncode == code
        heard = code and "2>&-" not in redirection
        assert bool(re.search("Bad file descriptor.*standard output", done.stderr, re.DOTALL)) == heard
        assert len(done.stderr.splitlines()) <= 2


def test_a_closed_stream_hides_no_other_error() -> None:
    done = shell("kvplan size no-such-model >&-")
    assert done.returncode == 2
    assert "no-such-model" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_an_error(unbuffered: str) -> None:
    done = shell("kvplan size llama3-8b > /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_control_characters_are_shown_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[31mb\u202ec\x07"
    log = tmp_path / "start.log"
    log.write_text(f"INFO Available KV cache memory: 1.00 GiB\nINFO {evil}\n", encoding="utf-8")
    for argv in (["size", evil], ["size", str(tmp_path / f"{evil}.json")], ["trace", "describe", evil],
                 ["explain-log", str(log), "--unread", "9"]):  # fmt: skip
        run(argv)
        said = capsys.readouterr()
        assert not {"\x1b", "\u202e", "\x07"} & set(said.out + said.err)


def test_what_is_wrong_is_not_repeated_at_length(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["size", "llama3-8b", "--ctx", "9" * 50_000]) == 2
    assert len(capsys.readouterr().err) < 5000


def test_help_has_its_short_name_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["-h"], ["size", "-h"], ["trace", "-h"], ["trace", "describe", "-h"]):
        assert run(argv) == 0
        assert "Usage:" in capsys.readouterr().out


def test_what_is_no_result_is_told_what_writes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x"
    for text, hint in (("model: x\n", "kvplan simulate -o"), ('{"schema": "kv', "cut off"), ("", "is empty")):
        path.write_text(text)
        assert run(["report", str(path)]) == 1
        assert hint in capsys.readouterr().err


def test_errors_of_usage_point_to_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, place in ((["size"], "kvplan size --help"), (["fit", "x"], "kvplan fit --help"),
                        (["siez"], "kvplan --help"), (["trace", "foo"], "kvplan trace --help")):  # fmt: skip
        assert run(argv) == 2
        assert f"see {place}" in capsys.readouterr().err
    run(["size", "x", "--format", "xml"])
    assert "Value error" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("size --model llama-3.1-8b", "MODEL stands alone here: kvplan size MODEL ..."),
        ("trace convert x.csv -o y.jsonl", "OUT stands alone here: kvplan trace convert IN OUT ..."),
        ("trace describe --trace x.csv", "TRACE stands alone here: kvplan trace describe TRACE ..."),
        ("size --modl llama-3.1-8b", "see kvplan size --help"),
        ("size llama-3.1-8b --json", "say --format json"),
    ],
)
def test_an_argument_given_as_an_option_is_told_where_it_stands(
    words: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words.split()) == 2
    assert f"hint: {hint}\n" in capsys.readouterr().err


@pytest.mark.parametrize(("argv", "code"), [(["size", "nope"], 2), (["size", "nope.json"], 1)])
def test_debug_shows_the_traceback_and_keeps_the_code(
    argv: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--debug", *argv, "--format", "json"]) == code
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert json.loads(err.splitlines()[-1])["error"]["exit_code"] == code


def test_ascii_terminals_get_ascii() -> None:
    for command in ("--help", "size --help", "fit llama3-8b --gpu h100", "models list"):
        done = shell(f"kvplan {command}", PYTHONIOENCODING="ascii", LC_ALL="C", TERM="dumb")
        assert done.returncode == 0
        assert "\\u" not in done.stdout


def on_terminal(command: str, **environment: str) -> tuple[str, str]:
    """What a command writes to a terminal: stdout and stderr."""
    ends = [pty.openpty() for _ in range(2)]
    done = subprocess.Popen(
        [sys.executable, "-m", "kvplan", *command.split()], stdin=subprocess.DEVNULL,
        stdout=ends[0][1], stderr=ends[1][1], env={**os.environ, "TERM": "xterm", **environment},
    )  # fmt: skip
    said = []
    for end, other in ends:
        os.close(other)
        parts = []
        with suppress(OSError):  # the end of a terminal is an error on Linux
            while part := os.read(end, 65536):
                parts.append(part)
        said.append(b"".join(parts).decode())
        os.close(end)
    assert done.wait(timeout=60) == 0
    return said[0], said[1]


SEEN = "simulate --model llama-3.1-8b --gpu h100-sxm --synthesize chat -n 20"


@pytest.mark.parametrize("command", ["size --help", SEEN])
def test_no_color_leaves_text_alone(command: str) -> None:
    assert "\x1b[" in on_terminal(command)[0]
    assert "\x1b[" not in on_terminal(command, NO_COLOR="1")[0]
    assert "\x1b[" in on_terminal(command, NO_COLOR="")[0]


def test_a_dumb_terminal_gets_no_control_sequences() -> None:
    """A progress line is written over itself, which such a terminal shows as dirt."""
    out, err = on_terminal(f"sweep {SEEN.removeprefix('simulate')} --vary seed=1,2", TERM="dumb")
    assert "\x1b" not in out + err
    out, err = on_terminal(SEEN, TERM="dumb")
    assert "\x1b" not in out + err


def test_formats_are_read_in_any_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["size", "llama-3.1-8b", "--format", "JSON"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "kvplan.size/1"
    assert run(["size", "nope", "--format", "JSON"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["exit_code"] == 2


def _commands() -> list[list[str]]:
    groups = {"trace": ("describe", "convert", "synthesize", "ladder", "formats"), "gpus": ("list", "show"),
              "models": ("list", "show", "import", "validate", "schema")}  # fmt: skip
    return [[verb, *more] for verb in VERBS for more in [[], *([name] for name in groups.get(verb, ()))]]


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_help_is_whole_at_80_columns(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    assert run([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    options = out.partition("─ Options ─")[2]
    assert not re.search(r"<(bool|str|int|float|path|list)\b", options)  # what a programmer calls them


@pytest.mark.parametrize("verb", VERBS)
def test_paragraphs_of_help_are_not_wrapped_twice(verb: str) -> None:
    """Line breaks behind a docstring's first paragraph are kept, so its lines have to fit 80 columns."""
    module = import_module(VERBS[verb].module)
    own = [
        item
        for name, item in vars(module).items()
        if getattr(item, "__module__", "") == module.__name__ and not name.startswith("_")
    ]
    for command in own:
        for paragraph in (command.__doc__ or "").split("\n\n")[1:]:
            lines = [re.sub(r"\[/?bold\]", "", line).strip() for line in paragraph.strip().split("\n")]
            assert len(lines) == 1 or max(map(len, lines)) <= 78


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("kvplan siz", "size"),
        ("kvplan size llama-3.1-7", "llama-3.1-70b"),
        ("kvplan fit llama-3-8b --gpu h100-s", "h100-sxm"),
        ("kvplan simulate --model deepseek-v3", "deepseek-v3"),
        ("kvplan gpus show l4", "l40s"),
    ],
)
def test_the_shell_completes_verbs_and_names(words: str, found: str) -> None:
    done = shell(
        "kvplan", _KVPLAN_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1)
    )
    assert found in done.stdout.split()


def test_an_interrupt_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kvplan.specs.catalog.load_gpu", interrupt)
    assert run(["gpus", "show", "h100-sxm"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.parametrize("columns", ["0", "1", "40", "80", "abc", "-5", "9" * 30])
def test_narrow_terminals_lose_no_figure(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.table import Table

    from kvplan.cli import output

    stream = io.StringIO()
    table = Table(*(f"column {index}" for index in range(6)), box=None)
    table.add_row(*(f"{index} 12.34 ms" for index in range(6)))
    with monkeypatch.context() as patch:  # who reports on this test reads the variable, too
        patch.setattr("sys.stdout", stream)
        patch.setenv("COLUMNS", columns)
        output.stdout_console().print(table)
    lines = stream.getvalue().splitlines()
    assert "5 12.34 ms" in lines[1]
    assert len(lines) == 2


def test_printed_text_is_no_markup_and_ends_where_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.table import Table

    from kvplan.cli import output

    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    console = output.stdout_console()
    console.print("pip install 'kvplan[gpu]'")
    table = Table("left", "wide", box=None, pad_edge=True)
    table.add_row("a", "")
    console.print(table)
    assert stream.getvalue() == "pip install 'kvplan[gpu]'\n left  wide\n a\n"


@pytest.mark.parametrize("words", [[], ["models"], ["trace"], ["gpus"]])
def test_without_a_verb_the_help_comes_once(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    said = capfd.readouterr()
    assert (said.out + said.err).count("Usage: ") == 1
