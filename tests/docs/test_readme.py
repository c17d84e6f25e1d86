"""The README cannot drift: its commands run, print what it shows, and none is missing.

``KVPLAN_UPDATE_GOLDEN=1`` rewrites the shown output from a run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from kvplan.cli.app import VERBS, build_app

PROJECT = Path(__file__).resolve().parents[2]
README = PROJECT / "README.md"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def sessions() -> list[tuple[str, str]]:
    """(command, output shown) pairs of the README's console blocks."""
    found = []
    for block in BLOCK.findall(README.read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output.rstrip("\n")))
    return found


def output_of(command: str) -> str:
    words = shlex.split(command)
    assert words[0] == "kvplan"
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "FORCE_COLOR")}
    done = subprocess.run(
        [sys.executable, "-m", "kvplan", *words[1:]],
        cwd=PROJECT, text=True, capture_output=True, timeout=120, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()).rstrip("\n")


@pytest.mark.parametrize("command", [command for command, _ in sessions()])
def test_shown_output_is_real(command: str) -> None:
    actual = output_of(command)
    if os.environ.get("KVPLAN_UPDATE_GOLDEN"):
        text = README.read_text()
        start = text.index(f"$ {command}\n") + len(command) + 3
        end = min(place for place in (text.find("```", start), text.find("\n$ ", start - 1)) if place >= 0)
        README.write_text(text[:start] + actual + "\n" + text[end:].lstrip("\n"))
        return
    (shown,) = (output for known, output in sessions() if known == command)
    assert shown.strip("\n") == actual


def test_every_command_is_documented() -> None:
    text = README.read_text()
    for verb in VERBS:
        assert f"`kvplan {verb}" in text, f"README does not mention kvplan {verb}"


def test_every_subcommand_is_documented_and_helps() -> None:
    text = README.read_text()
    group = typer.main.get_command(build_app())
    for verb, command in group.commands.items():  # type: ignore[attr-defined]
        assert command.help, f"kvplan {verb} has no help text"
        for name, sub in getattr(command, "commands", {}).items():
            assert f"`{name}`" in text or f"`kvplan {verb} {name}" in text, f"kvplan {verb} {name}"
            assert sub.help, f"kvplan {verb} {name} has no help text"


def test_the_first_screen_shows_both_commands() -> None:
    head = README.read_text().splitlines()[:25]
    assert any(line.startswith("make demo") for line in head)
    assert any(line.startswith("make test") for line in head)


def commands() -> list[str]:
    """Every ``kvplan ...`` that is written as code, with continued lines joined."""
    text = README.read_text().replace("\\\n", " ")
    blocks = [line.removeprefix("$ ") for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL)
              for line in block.splitlines()]  # fmt: skip
    inline = re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [item for item in (*blocks, *inline) if item.startswith("kvplan ")]


@pytest.mark.parametrize("command", commands())
def test_every_option_that_is_named_exists(command: str) -> None:
    words = shlex.split(command.partition("  #")[0])[1:]
    node = typer.main.get_command(build_app())
    while words and words[0].rstrip(",") in getattr(node, "commands", {}):
        node = node.commands[words.pop(0).rstrip(",")]  # type: ignore[attr-defined]
    known = {name for item in node.params for name in (*item.opts, *item.secondary_opts)}
    known |= {"--help", "-h", "--version", "--install-completion", "-"}
    asked = {word.partition("=")[0] for word in words if re.match(r"--?[a-z-]", word)}
    assert asked <= known


def settings() -> list[str]:
    """The scenarios and parts of them in the README."""
    text = README.read_text()
    whole = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    parts = re.findall(
        r"`((?:cache|tiers|engine|sampling|speculative|parallel|routing|disaggregation): \{[^`]+)`", text
    )
    return [*whole, *parts]


def test_settings_are_found() -> None:
    assert len(settings()) > 20


@pytest.mark.parametrize("setting", settings())
def test_every_setting_that_is_shown_is_one(setting: str) -> None:
    from kvplan.scenario.load import load_scenario
    from kvplan.specs.document import parse_yaml

    document = parse_yaml(setting if "\n" in setting else f"{{{setting}}}", "README.md")
    for key, value in (("model", "llama-3.1-8b"), ("gpu", "h100-sxm"), ("workload", {"synthesize": "chat"})):
        document.data.setdefault(key, value)
    load_scenario(document)
