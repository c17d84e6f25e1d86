"""The ``kvplan`` command: finds the verb, imports only its module, and turns errors into exit codes."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import NamedTuple

# Nobody installs validation plugins for kvplan; looking for them reads the metadata of every distribution.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

import typer
from typer._click import Command, Context
from typer._click.exceptions import ClickException, MissingParameter, NoArgsIsHelpError
from typer.core import TyperOption

from kvplan import __version__
from kvplan.errors import Interrupted, KvplanError, UsageError, shortened


class Verb(NamedTuple):
    """Where a command lives. ``target`` is a function or, for a group, a ``typer.Typer``."""

    module: str
    target: str


VERBS: dict[str, Verb] = {
    "size": Verb("kvplan.cli.commands.size", "size"),
    "fit": Verb("kvplan.cli.commands.fit", "fit"),
    "simulate": Verb("kvplan.cli.commands.simulate", "simulate"),
    "plan": Verb("kvplan.cli.commands.plan", "plan"),
    "sweep": Verb("kvplan.cli.commands.sweep", "sweep"),
    "diff": Verb("kvplan.cli.commands.diff", "diff"),
    "report": Verb("kvplan.cli.commands.report", "report"),
    "audit": Verb("kvplan.cli.commands.audit", "audit"),
    "trace": Verb("kvplan.cli.commands.trace", "app"),
    "models": Verb("kvplan.cli.commands.models", "app"),
    "gpus": Verb("kvplan.cli.commands.gpus", "app"),
    "calibrate": Verb("kvplan.cli.commands.calibrate", "app"),
    "explain-log": Verb("kvplan.cli.commands.explain_log", "explain_log"),
    "doctor": Verb("kvplan.cli.commands.doctor", "doctor"),
}
"""Every verb, in the order of ``kvplan --help``."""


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"kvplan {__version__}")
        raise typer.Exit


def _root(
    ctx: typer.Context,
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", is_eager=True, callback=_show_version
    ),
    debug: bool = typer.Option(False, "--debug", help="Show a traceback when something fails."),
) -> None:
    """How much memory a model's KV cache takes, what fits, and what happens to it under real traffic."""


HELP = ["--help", "-h"]

EPILOG = (
    "Begin with  kvplan fit llama-3.1-8b --gpu h100-sxm --ctx 32k  and go on with the command it prints.\n\n"
    "Exit codes: 0 ok; 1 data or run-time error; 2 usage; 3 the answer is no (does not fit, an objective is "
    "missed); 4 the environment lacks something; 130 interrupted."
)
"""Below the list of commands."""


def build_app(verbs: Sequence[str] | None = None) -> typer.Typer:
    """The Typer application holding ``verbs`` (default: all of them)."""
    app = typer.Typer(
        name="kvplan", no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
        context_settings={"help_option_names": HELP}, epilog=EPILOG,
    )  # fmt: skip
    app.callback()(_root)
    for name in VERBS if verbs is None else verbs:
        verb = VERBS[name]
        target = getattr(import_module(verb.module), verb.target)
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name)
        else:
            app.command(name)(target)
    return app


_KINDS = {"int": "N", "float": "X", "Path": "FILE", "str": "TEXT", "bool": ""}


def build_command(verbs: Sequence[str] | None = None) -> Command:
    """The command of ``verbs``, whose help says what options take as people write it: not ``<int range>``."""
    root: Command = typer.main.get_command(build_app(verbs))
    left = [root]
    while left:
        command = left.pop()
        left += getattr(command, "commands", {}).values()
        for option in command.get_params(Context(command, help_option_names=HELP)):
            if isinstance(option, TyperOption) and option.metavar is None:
                kind = option.bare_type().removeprefix("list[").removesuffix("]")
                option.metavar = _KINDS.get(kind)  # of choices None, which lists them
    return root


def _named_verb(argv: Sequence[str]) -> str | None:
    """The verb the command line asks for, when it is plain which one."""
    for word in argv:
        if word in ("--debug",):
            continue
        return word if word in VERBS else None
    return None


def _wants_json(argv: Sequence[str]) -> bool:
    words = [word.casefold() for word in argv]
    return any(
        word in ("--format=json", "-fjson")
        or (word in ("--format", "-f") and words[i + 1 : i + 2] == ["json"])
        for i, word in enumerate(words)
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the ``kvplan`` script; never returns."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.exit(run(arguments))


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; prints errors instead of raising them."""
    _prepare_streams()
    verb = _named_verb(argv)
    from kvplan.cli.output import wants_colour

    if not wants_colour():  # the help's own console obeys it for colours, but not for bold and dim
        os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"
    completing = "_KVPLAN_COMPLETE" in os.environ
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    try:
        command = build_command(None if verb is None or completing else [verb])
        code = command(args=list(argv), prog_name="kvplan", standalone_mode=False)
        sys.stdout.flush()
        if code == Interrupted.exit_code:  # the framework turns an interrupt into its code, without a word
            raise Interrupted("interrupted")
        return code if isinstance(code, int) else 0
    except NoArgsIsHelpError as exc:
        # Asking for the help's text already printed it, unless rich is not to be had.
        if exc.message:
            typer.echo(exc.message)
        return 2
    except SystemExit as exc:
        if isinstance(exc.__context__, BrokenPipeError):  # the framework's way of saying so
            return _reader_went_away()
        raise
    except BrokenPipeError:
        return _reader_went_away()
    except BaseException as exc:
        problem = _problem(exc)
        if problem is None:
            raise
        if debug:
            traceback.print_exception(exc)
        with suppress(OSError):  # nobody reads errors either: the code still tells
            _report(problem, as_json=_wants_json(argv))
        _give_up_unwritable_output()
        return problem.exit_code


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            # An answer that nobody can have is an error, as it is of every tool; a warning is not.
            held = os.open(os.devnull, os.O_RDONLY if name == "stdout" else os.O_WRONLY)
            setattr(sys, name, open(held, "w", encoding="utf-8"))  # noqa: SIM115 - lives as long as we do
        elif isinstance(stream, io.TextIOWrapper):
            # A terminal or pipe that knows only ASCII gets \\uXXXX instead of a crash.
            stream.reconfigure(errors="backslashreplace")


def _reader_went_away() -> int:
    """The reader of our pipe (head, less) has enough: nothing to say, and no answer either.

    Returns what a shell sees of a tool that the signal for it ends.
    """
    _give_up_unwritable_output()
    return 128 + SIGPIPE


def _give_up_unwritable_output() -> None:
    """What is still buffered for a dead pipe or a full disk cannot be written at shutdown either."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


SIGPIPE = 13
"""Its number, also where the system has no such signal."""

MAX_FILE = 300
"""Longest file name repeated: some cannot be opened because of their length."""


def _where_to_look(exc: ClickException) -> str | None:
    """The help of the command; or the argument that was given as an option, as another command has it."""
    context = getattr(exc, "ctx", None)
    if context is None:
        return None
    option = str(getattr(exc, "option_name", "")).lstrip("-")
    if isinstance(exc, MissingParameter) and exc.param is not None and exc.param.name == "gpu":
        return f"say for example --gpu h100-sxm (kvplan gpus list has all); see {context.command_path} --help"
    if option in ("json", "csv", "md"):
        return f"say --format {option}"
    arguments = [item for item in context.command.params if item.param_type_name == "argument"]
    names = [str(item.metavar or item.name).upper() for item in arguments]
    asked = "OUT" if option in ("o", "output") else option.upper()
    if asked in names:
        return f"{asked} stands alone here: {context.command_path} {' '.join(names)} ..."
    return f"see {context.command_path} --help"


def _problem(exc: BaseException) -> KvplanError | None:
    """What a user is told of an exception; ``None`` where it is none of ours."""
    if isinstance(exc, KvplanError):
        return exc
    if isinstance(exc, ClickException):
        return UsageError(exc.format_message().replace("Value error, ", ""), hint=_where_to_look(exc))
    if isinstance(exc, (KeyboardInterrupt, typer.Abort)):
        return Interrupted("interrupted")
    if isinstance(exc, OSError):
        where = "standard output" if exc.errno == errno.EBADF else None  # closed: only it is not opened by us
        if exc.filename:
            where = shortened(str(exc.filename), MAX_FILE)
        problem = KvplanError(exc.strerror or str(exc), where=where)
        problem.code = "io"
        return problem
    if isinstance(exc, Exception):
        problem = KvplanError(
            f"internal error: {type(exc).__name__}: {exc}",
            hint="this is a bug in kvplan; run again with --debug and report the traceback",
        )
        problem.code = "internal"
        return problem
    return None


MAX_SHOWN = 2000
"""Longest message shown: what is wrong may be megabytes of input, and they are not repeated."""


def _report(problem: KvplanError, *, as_json: bool) -> None:
    from kvplan.cli.output import visible

    def shown(text: str) -> str:
        return visible(
            text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ... ({len(text):,} characters)"
        )

    if as_json:
        sys.stderr.write(json.dumps(problem.to_dict(), ensure_ascii=False) + "\n")
        return
    lines = [f"error: {shown(problem.message)}"]
    if problem.where:
        lines.append(f"  where: {shown(problem.where)}")
    if problem.hint:
        lines.append(f"  hint: {shown(problem.hint)}")
    sys.stderr.write("\n".join(lines) + "\n")
