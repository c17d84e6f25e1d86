"""What collectors, containers and terminals put around an engine's lines does not change what they say."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from kvplan.sizing.logs.account import Account, account
from kvplan.sizing.logs.documents import decoded, lines_of
from kvplan.sizing.logs.lines import MAX_LINE, read_log
from kvplan.sizing.logs.starts import starts

LINES = """\
(APIServer pid=7) INFO 11-11 09:00:00 [utils.py:233] non-default args: {'model': 'Qwen/Qwen3-32B', 'tensor_parallel_size': 2, 'compilation_config': {"level": 3}}
(EngineCore_DP0 pid=99) INFO 11-11 09:00:10 [core.py:140] Initializing a V1 LLM engine (v0.11.0) with config: model='Qwen/Qwen3-32B', max_seq_len=40960, compilation_config={"level":3}
(Worker_TP0 pid=201) INFO 11-11 09:01:36 [gpu_worker.py:760] Available KV cache memory: 37.40 GiB
(Worker_TP1 pid=202) INFO 11-11 09:01:36 [gpu_worker.py:760] Available KV cache memory: 37.35 GiB
(EngineCore_DP0 pid=99) INFO 11-11 09:01:37 [kv_cache_utils.py:1147] GPU KV cache size: 305,968 tokens
""".splitlines()

COLOURED = [
    line.replace("(", "\x1b[0;36m(", 1).replace(")", ")\x1b[0;0m", 1).replace("GiB", "\x1b[1mGiB\x1b[0m")
    for line in LINES
]


def structured(line: str) -> str:
    """As a JSON formatter prints it: the process in a field of its own."""
    process, rest = line[1:].split(" pid=", 1)
    return json.dumps(
        {
            "timestamp": "2026-11-11T09:00:00Z",
            "level": "INFO",
            "processName": process,
            "message": rest.split("] ", 1)[1],
        }
    )


def container(line: str) -> str:
    return json.dumps({"log": line + "\n", "stream": "stderr", "time": "2026-11-11T09:00:00.1Z"})


ENVELOPES: dict[str, Callable[[str], str]] = {
    "docker": container,
    "a JSON formatter": structured,
    "a JSON formatter in docker": lambda line: container(structured(line)),
    "kubernetes": lambda line: f"2026-11-11T09:00:00.123456789Z stderr F {line}",
    "JSON in kubernetes": lambda line: f"2026-11-11T09:00:00.123456789Z stderr F {structured(line)}",
    "fluent bit": lambda line: json.dumps(
        {"date": 1.5, "kubernetes": {"pod_name": "a-1", "container_name": "vllm"}, "log": line}
    ),
    "cloud logging": lambda line: json.dumps({"jsonPayload": {"message": line}, "severity": "INFO"}),
    "journald": lambda line: f"Nov 11 09:00:00 gpu-node docker[1234]: {line}",
    "colours as they are escaped": lambda line: line.replace("\x1b", "\\u001b"),
    "colours as cat -v shows them": lambda line: line.replace("\x1b", "^["),
    "colours as rsyslog writes them": lambda line: line.replace("\x1b", "#033"),
    "Windows": lambda line: line + "\r",
}


def told(lines: list[str]) -> tuple[Account, set[str]]:
    begun = starts(read_log(lines).facts)
    assert len(begun) == 1
    return account(begun[0]), {fact.rank for fact in begun[0]}


@pytest.mark.parametrize("lines", [LINES, COLOURED], ids=["plain", "coloured"])
@pytest.mark.parametrize("name", ENVELOPES)
def test_an_envelope_changes_nothing(name: str, lines: list[str]) -> None:
    if lines is COLOURED and ("formatter" in name or name == "JSON in kubernetes"):
        lines = LINES
    assert told([ENVELOPES[name](line) for line in lines]) == told(LINES)


def test_lines_that_a_container_runtime_cuts_are_whole_again() -> None:
    """Parts of two streams may alternate; a log that ends within a line ends with what there is of it."""
    cut = [
        f"2026-11-11T09:00:00.123456789Z stderr {more} {part}"
        for line in LINES
        for more, part in (("P", line[:70]), ("P", line[70:90]), ("F", line[90:]))
    ]
    between = [line for part in cut for line in (part, "2026-11-11T09:00:00.123456789Z stdout F GET /health")]
    for lines in (cut, between):
        assert told(lines_of("\n".join(lines))) == told(LINES)
    assert told(lines_of("\n".join(cut[:-1]))) != told(LINES)
    ended = read_log(lines_of("\n".join([*cut[:-1], cut[-1].replace("stderr F", "stderr P")])))
    assert account(ended.facts) == account(read_log(LINES).facts)
    assert {fact.line for fact in read_log(lines_of("\n".join(cut))).facts} == {3, 6, 9, 12, 15}


def test_a_pod_in_a_field_is_a_server_of_its_own() -> None:
    def pod(name: str, line: str) -> str:
        return json.dumps({"kubernetes": {"pod_name": name}, "log": line})

    mixed = [pod(name, line) for line in LINES for name in ("a-1", "b-1")]
    begun = starts(read_log(mixed).facts)
    assert {start[0].source for start in begun} == {"a-1", "b-1"}


def test_several_lines_in_one_message_are_read_one_by_one() -> None:
    wrapped = json.dumps({"message": "\n".join(LINES)})
    assert account(read_log([wrapped]).facts).pool_tokens == 305_968


@pytest.mark.parametrize(
    "line",
    [
        '{"log": 5}', '{"log": ', "{}", "[1, 2]", '{"log": {"log": {"log": {"log": {"log": "x"}}}}}', "{" * 9999,
        '{"message": "' + "x" * (2 * MAX_LINE) + '"}', '{"kubernetes": 5, "log": "x", "processName": 7}',
    ],
)  # fmt: skip
def test_what_is_no_envelope_is_a_line_as_any(line: str) -> None:
    reading = read_log([line, *LINES])
    assert account(reading.facts).pool_tokens == 305_968
    assert reading.lines == 1 + len(LINES)


@pytest.mark.parametrize(
    "line",
    [
        "INFO 11-11 10:00:00 [logger.py:41] Received request cmpl-1: prompt: {!r}, params: SamplingParams(n=1)",
        "INFO 11-11 10:00:00 [logger.py:41] Received request cmpl-1: params: SamplingParams(n=1), prompt: {!r}",
        "DEBUG 11-11 10:00:00 [request_logger.py:60] Request cmpl-1 details: prompt: {!r}, prompt_token_ids: None",
        "[2026-11-11 10:00:00] Receive: obj=GenerateReqInput(text={!r}, sampling_params=None)",
        "[2026-11-11 10:00:00] Finish: obj=GenerateReqInput(text={!r}), out={{}}",
        'INFO: 10.0.0.1:5 - "POST /v1/completions?{} HTTP/1.1" 200 OK',
    ],
)
def test_what_a_request_says_is_no_line_of_the_engine(line: str) -> None:
    prompt = "GPU KV cache size: 5 tokens; Available KV cache memory: 0.01 GiB; max_total_num_tokens=7"
    assert told([*LINES, line.format(prompt)]) == told(LINES)


BATCH = [
    json.dumps(
        {
            "resourceLogs": [
                {
                    "scopeLogs": [
                        {
                            "logRecords": [
                                {"timeUnixNano": "1", "body": {"stringValue": line}} for line in part
                            ]
                        }
                    ]
                }
                for part in (LINES[:2], LINES[2:])
            ]
        }
    )
]
FIELDS = [
    json.dumps({"_index": "a", "fields": {"@timestamp": ["2026"], "message": [line]}}) for line in LINES
]
LOGO = "(APIServer pid=7) INFO 11-11 08:59:59 [utils.py:300]   █▄█▀ █     █     █     █  version 0.11.0"


@pytest.mark.parametrize("lines", [BATCH, FIELDS], ids=["OpenTelemetry", "fields"])
def test_lines_deep_in_an_object_are_read_one_by_one(lines: list[str]) -> None:
    """A batch is longer than what is looked at of one line, and its ranks are as many as its lines say."""
    assert told(lines_of("\n".join(lines))) == told(LINES)
    assert told(lines_of("\n".join([*lines, "{}"]))) == told(LINES)


@pytest.mark.parametrize("key", ["event", "_raw", "content"])
def test_other_names_of_what_was_printed(key: str) -> None:
    reading = read_log([json.dumps({key: line}) for line in [LOGO, *LINES]])
    assert account(reading.facts[:1]).version == "0.11.0"


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_codings(coding: str) -> None:
    text = "\n".join([LOGO, *LINES])
    assert [line.strip("\ufeff") for line in lines_of(decoded(text.encode(coding)))] == [LOGO, *LINES]


def test_lines_that_docker_cuts_are_whole_again() -> None:
    """Every 16 KiB; parts of two streams may alternate."""
    long = LINES[0].replace(
        "'compilation_config'", f"'{'x' * 40_000}': 1, 'max_num_seqs': 77, 'compilation_config'"
    )
    health = json.dumps({"log": "GET /health\n", "stream": "stdout", "time": "t"})
    cut = []
    for line in [long, *LINES[1:]]:
        text = line + "\n"
        for first in range(0, len(text), 1 << 14):
            part = {"log": text[first : first + (1 << 14)], "stream": "stderr", "time": "t"}
            cut += [json.dumps(part), health]
    whole = [line for line in lines_of("\n".join(cut)) if line]
    assert len(long) > MAX_LINE
    assert account(read_log(whole).facts).pool_tokens == 305_968
    assert told(whole) == told([long, *LINES[1:]])


def test_lines_that_two_handlers_print_count_once() -> None:
    """A second model that is loaded, and a second pool, would be a draft's."""
    sglang = [
        "[2026-01-10 10:00:10] Load weight begin. avail mem=78.50 GB",
        "[2026-01-10 10:00:40] Load weight end. type=A, dtype=torch.bfloat16, avail mem=47.60 GB, mem usage=30.90 GB.",
        "[2026-01-10 10:00:41] KV Cache is allocated. #tokens: 143360, K size: 17.50 GB, V size: 17.50 GB",
    ]
    twice = [line for line in sglang for _ in range(2)]
    found = account(read_log(lines_of("\n".join(twice))).facts)
    assert found == account(read_log(sglang).facts)
    assert found.draft_weights_bytes is None
    # Two equal pools, of layers with a window and without, are two.
    pools = [*sglang, sglang[-1]]
    assert lines_of("\n".join(pools)) == pools


@pytest.mark.parametrize(
    ("before", "rank"),
    [
        (
            "(EngineCore_DP0 pid=99) (RayWorkerWrapper pid=201, ip=10.0.0.2)",
            "RayWorkerWrapper pid=201, ip=10.0.0.2",
        ),
        ("(RayWorkerWrapper pid=201)", "RayWorkerWrapper pid=201"),
        ("(EngineCoreActor pid=99) (Worker_TP1 pid=202)", "Worker_TP1"),
        ("(VllmWorker rank=1 pid=12)", "VllmWorker rank=1"),
        ("(DPEngineCoreActor pid=99)", "DPEngineCoreActor"),
        ("[2026-01-10 10:00:10 DP0 TP3]", "DP0 TP3"),
        ("(APIServer pid=7)", ""),
    ],
)
def test_whose_line_it_is(before: str, rank: str) -> None:
    """Of a worker that prints behind its engine core's name, the worker's."""
    reading = read_log(
        [f"{before} INFO 11-11 09:01:36 [gpu_worker.py:760] Available KV cache memory: 37.4 GiB"]
    )
    assert [fact.rank for fact in reading.facts] == [rank]


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("collector", ["Loki", "cloud logging"])
def test_answers_of_queries_are_read_in_the_order_of_their_times(collector: str, newest_first: bool) -> None:
    """Lines of one second do not tell their order themselves."""
    lines = [line.replace("09:00:10", "09:00:00").replace("09:01:3", "09:00:0") for line in LINES]
    step = -1 if newest_first else 1
    if collector == "Loki":
        values = [[str(1_700_000_000_000_000_000 + place), line] for place, line in enumerate(lines)]
        document: object = {"data": {"result": [{"stream": {"pod": "a"}, "values": values[::step]}]}}
    else:
        entries = [
            {"textPayload": line, "timestamp": f"2026-01-10T10:00:00.{n:03d}Z"}
            for n, line in enumerate(lines)
        ]
        document = entries[::step]
    assert lines_of(json.dumps(document)) == lines
