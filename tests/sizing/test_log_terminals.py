"""Logs as terminals, web pages, shells and Kubernetes show them: broken, escaped, ended from outside."""

from __future__ import annotations

import html
import json

import pytest

from kvplan.sizing.logs.account import Account, account
from kvplan.sizing.logs.documents import lines_of
from kvplan.sizing.logs.explanation import reasons
from kvplan.sizing.logs.lines import Reading, read_log
from kvplan.sizing.logs.remedies import enlargements
from kvplan.sizing.logs.starts import starts
from tests.sizing.test_log_failures import ALLOCATED, LOADED, POOL, SGLANG, VLLM

TOKENS = (
    "(EngineCore_DP0 pid=99) INFO 11-20 09:00:42 [kv_cache_utils.py:1229] GPU KV cache size: 392,528 tokens\n"
    "(EngineCore_DP0 pid=99) INFO 11-20 09:00:42 [kv_cache_utils.py:1234] Maximum concurrency for 32,768 "
    "tokens per request: 11.98x\n"
)
LOGS = {"vllm": VLLM + LOADED + POOL + TOKENS, "sglang": SGLANG + ALLOCATED}


def read(text: str) -> Reading:
    return read_log(lines_of(text))


def said(text: str) -> list[tuple[str, dict[str, float | str]]]:
    return [(fact.name, fact.values) for fact in read(text).facts]


def last(text: str) -> Account:
    return account(starts(read(text).facts)[-1])


def broken(text: str, width: int, *, strip: bool = False) -> str:
    parts = [
        line[begin : begin + width] for line in text.splitlines() for begin in range(0, len(line) or 1, width)
    ]
    return "\n".join(part.rstrip() if strip else part for part in parts)


@pytest.mark.parametrize("engine", LOGS)
@pytest.mark.parametrize("escape", [html.escape, lambda text: html.escape(text).replace("&#x27;", "&#39;")])
def test_marks_of_web_pages_are_read_as_their_characters(engine, escape):
    assert said(escape(LOGS[engine])) == said(LOGS[engine])


@pytest.mark.parametrize("escape", [str, html.escape])
def test_marks_within_and_around_objects(escape):
    lines = [json.dumps({"log": html.escape(line)}) for line in LOGS["vllm"].splitlines()]
    assert said("\n".join(map(escape, lines))) == said(LOGS["vllm"])


@pytest.mark.parametrize("engine", LOGS)
@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("width", [60, 72, 80])
def test_lines_that_a_terminal_broke_are_one(engine, width, strip):
    assert said(broken(LOGS[engine], width, strip=strip)) == said(LOGS[engine])


@pytest.mark.parametrize("before", ["(pid=201) ", "(ServeReplica:default:LLM pid=201, ip=10.0.0.2) "])
def test_lines_of_ray_that_a_terminal_broke_are_one(before):
    log = "\n".join(before + line for line in LOGS["vllm"].splitlines())
    assert said(broken(log, 100)) == said(log)


@pytest.mark.parametrize("engine", LOGS)
def test_lines_keep_their_numbers(engine):
    whole = lines_of(LOGS[engine])
    assert whole == LOGS[engine].splitlines()
    assert len(lines_of(broken(LOGS[engine], 80))) == len(broken(LOGS[engine], 80).splitlines())


def test_tables_of_equal_lines_are_not_joined():
    rows = [f"Loading safetensors checkpoint shards: {i:3d}% Completed | {i:2d}/99 [00:{i:02d}<00:09]" for i in range(9)]  # fmt: skip
    assert lines_of("\n".join(f"INFO 11-20 {row}" for row in rows)) == [f"INFO 11-20 {row}" for row in rows]


KILLED = [
    "Killed",
    "bash: line 1:  1234 Killed                  vllm serve Qwen/Qwen3-8B",
    "/start.sh: line 3:     7 Killed                  python -m sglang.launch_server",
    "zsh: killed     vllm serve Qwen/Qwen3-8B",
    "[1]+  Killed                  vllm serve Qwen/Qwen3-8B",
    "command terminated with exit code 137",
    "    Last State:     Terminated\n      Reason:       OOMKilled\n      Exit Code:    137",
    '            "OOMKilled": true,\n            "ExitCode": 137,',
    "[12345.6] Memory cgroup out of memory: Killed process 4242 (VLLM::EngineCor) total-vm:1kB",
    "Out of memory: Killed process 4242 (python3) total-vm:1kB",
    "main process exited, code=killed, status=9/KILL\nExited with status 137",
]


@pytest.mark.parametrize("line", KILLED)
@pytest.mark.parametrize("log", [VLLM + LOADED, SGLANG, SGLANG + ALLOCATED, ""])
def test_what_was_killed_lacked_memory_of_the_host(log, line):
    found = last(log + line + "\n")
    assert found.refused == "killed"
    why = " ".join(reasons(found))
    assert "the host (not the GPU)" in why
    assert [item.change for item in enlargements(found)] == [
        "more memory of the host: a higher limit of its container, a node with more"
    ]


@pytest.mark.parametrize("line", ["server-1 exited with code 137", "Killed"])
def test_what_a_shell_says_is_of_the_container_before(line):
    log = "".join(f"server-1  | {text}\n" for text in (VLLM + LOADED).splitlines())
    assert len(starts(read(log + line).facts)) == 1
    assert last(log + line).refused == "killed"


@pytest.mark.parametrize(
    "line",
    [
        '            "OOMKilled": false,', "OOMKilled=false", "      Exit Code:    0", "exited with code 1370",
        "INFO 11-20 09:01:00 [x.py:1] Killed 3 requests", "3 requests were killed",
        "(APIServer pid=7) INFO 11-20 09:01:00 [logger.py:1] Received request cmpl-1: prompt: 'OOMKilled', p",
    ],
)  # fmt: skip
def test_other_lines_kill_nothing(line):
    assert last(VLLM + LOADED + POOL + line + "\n").refused is None
