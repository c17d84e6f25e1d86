"""The exceptions that reach a user, and nothing else.

    KvplanError                 exit 1   something went wrong with data or at run time
    ├── DataError               exit 1   a file, row or value cannot be used (says where)
    │   └── SpecError           exit 1   a model, GPU or scenario file is invalid
    ├── UsageError              exit 2   the command line asks for something impossible
    │   ├── UnknownName         exit 2   a name is not in a registry (suggests near ones)
    │   └── TooFewRequests      exit 2   a workload has fewer than are to be under way at once
    ├── AnswerIsNo              exit 3   it does not fit / an SLO is missed
    ├── EnvironmentLacks        exit 4   no GPU, a missing extra: says which and how to get it
    └── Interrupted             exit 130 Ctrl-C; what was done is kept and marked incomplete

Every error says *what* happened, *where* (file:line, key path) and *what to do*.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_MESSAGE = 1_000
"""Longest message; of a longer one the beginning and the end are kept."""


class KvplanError(Exception):
    """Base of every error shown to a user.

    Args:
        message: what happened, one line, no trailing full stop.
        where: file, ``file:line`` or key path; ``None`` when there is no place.
        hint: what to do about it; ``None`` when there is nothing useful to say.
    """

    exit_code = 1
    code = "runtime"

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        if len(message) > MAX_MESSAGE:  # somebody's file is repeated in it
            message = f"{message[: MAX_MESSAGE - 100]} ... {message[-95:]}"
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{place}{self.message}{hint}"

    def to_dict(self) -> dict[str, object]:
        """The object printed on stderr under ``--format json``."""
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "where": self.where,
                "hint": self.hint,
                "exit_code": self.exit_code,
            }
        }


MAX_NAME = 80
"""Longest name repeated in a message."""


def shortened(text: str, limit: int = MAX_NAME) -> str:
    """A text from outside as a message repeats it: cut, saying how long it was, where it is long."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"


class DataError(KvplanError):
    """A file, row or value cannot be used."""

    code = "data"


class SpecError(DataError):
    """A model, GPU, link or scenario description is invalid."""

    code = "spec"


class UsageError(KvplanError):
    """The request itself is impossible or contradictory."""

    exit_code = 2
    code = "usage"


MAX_KNOWN = 40
"""Most names that an error lists where none is near and nothing else lists them."""


class UnknownName(UsageError):
    """A name that no registry knows; suggests the near ones."""

    code = "unknown-name"

    def __init__(
        self, kind: str, name: str, known: Iterable[str], *, where: str | None = None, hint: str | None = None
    ) -> None:
        names = sorted(set(known))
        near = near_names(name, names)
        parts = []
        if near:
            parts.append(f"did you mean {', '.join(near)}?")
        elif names and (len(names) <= 12 or not hint):
            more = f" and {len(names) - MAX_KNOWN} more" if len(names) > MAX_KNOWN else ""
            parts.append(f"known: {', '.join(names[:MAX_KNOWN])}{more}" + (";" if hint else ""))
        if hint:
            parts.append(hint)
        super().__init__(f"unknown {kind} {shortened(repr(name))}", where=where, hint=" ".join(parts) or None)
        self.suggestions = near


class TooFewRequests(UsageError):
    """A workload is too short for the load: fewer requests or sessions than are to be under way at once."""

    code = "too-few-requests"


class AnswerIsNo(KvplanError):
    """The question was understood and the answer is no (does not fit, SLO missed)."""

    exit_code = 3
    code = "no"


class EnvironmentLacks(KvplanError):
    """This machine or installation lacks something: a GPU, an extra, a browser."""

    exit_code = 4
    code = "environment"


class Interrupted(KvplanError):
    """The user stopped the run; partial results were kept and marked incomplete."""

    exit_code = 130
    code = "interrupted"


LEAST_BEGIN = 4
"""Letters and digits of a name that say what was meant, although the rest is missing."""


def near_names(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Names close to ``name``, best first, compared without case or punctuation.

    First those that begin with it or that it begins with, as people leave out the end of a name or add one
    (``qwen3-235b``, ``llama-3-8b-instruct``), the nearest in length before others; then those spelt alike.
    """

    def fold(text: str) -> str:
        return "".join(ch for ch in text.lower() if ch.isalnum())

    if len(name) > MAX_NAME:
        return []
    folded: dict[str, str] = {}
    for candidate in known:
        folded.setdefault(fold(candidate), candidate)
    wanted = fold(name)
    begun = [text for text in folded if _begins(text, wanted) or _begins(wanted, text)]
    begun.sort(key=lambda text: (abs(len(text) - len(wanted)), text))
    alike = difflib.get_close_matches(wanted, folded, n=limit, cutoff=0.6)
    return [folded[text] for text in dict.fromkeys([*begun, *alike])][:limit]


def _begins(text: str, begin: str) -> bool:
    return len(begin) >= LEAST_BEGIN and 3 * len(begin) >= len(text) and text.startswith(begin)
