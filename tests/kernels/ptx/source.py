"""PTX text to instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

DECLARATION = re.compile(r"\.reg\s+\.(\w+)\s+(.+)")
PREDICATE = re.compile(r"@(!?)(%?[\w$]+)\s+(.*)", re.S)
PARAMETER = re.compile(r"\.param\s+\.(\w+)\s.*?([\w$]+_param_\d+)")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Attributes:
        name: with every suffix, ``ld.global.v4.b32``.
        operands: registers, numbers, symbols and addresses as text; vectors as tuples.
        guard, negated: the predicate in front of it, "" without one, and whether it is ``@!p``.
        text: as it stood, for errors.
    """

    name: str
    operands: tuple[str | tuple[str, ...], ...]
    guard: str
    negated: bool
    text: str


@dataclass(slots=True)
class Kernel:
    """One entry: types of parameters in order, types of registers by name, code, and where labels point."""

    name: str
    threads: int
    parameters: dict[str, str] = field(default_factory=dict)
    registers: dict[str, str] = field(default_factory=dict)
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


def read(text: str) -> Kernel:
    """The one kernel of a module."""
    text = re.sub(r"//[^\n]*", "", text)
    entry = re.search(r"\.entry\s+(\w+)\s*\((.*?)\)(.*?)\{(.*)", text, re.S)
    assert entry, "no entry in this PTX"
    threads = re.search(r"\.reqntid\s+(\d+)", entry[3])
    assert threads, "the entry does not say how many threads it takes"
    kernel = Kernel(entry[1], int(threads[1]))
    for line in entry[2].split(",\n"):
        found = PARAMETER.search(line)
        if found:
            kernel.parameters[found[2]] = found[1]
    scopes: list[dict[str, str]] = [{}]
    for statement in _statements(entry[4]):
        if statement == "{":
            scopes.append({})
        elif statement == "}":
            scopes.pop()
        else:
            _one(kernel, statement, scopes)
    return kernel


def _statements(body: str) -> list[str]:
    """Statements, braces that open and close scopes, and labels; vectors in braces stay whole."""
    found, rest, depth = [], body, 1
    while depth:
        rest = rest.lstrip()
        if rest[0] in "{}":
            found.append(rest[0])
            depth += 1 if rest[0] == "{" else -1
            rest = rest[1:]
        elif label := re.match(r"\$?[\w$]+:", rest):
            found.append(label[0])
            rest = rest[label.end() :]
        elif directive := re.match(r"\.(loc|file|section|pragma)[^\n]*", rest):
            rest = rest[directive.end() :]
        else:
            # Line numbers stand even between the lines of inline assembly, but never inside a statement.
            end = rest.index(";")
            found.append(" ".join(rest[:end].split()))
            rest = rest[end + 1 :]
    return found


def _one(kernel: Kernel, statement: str, scopes: list[dict[str, str]]) -> None:
    if not statement:
        return
    if statement.endswith(":"):
        kernel.labels[statement[:-1]] = len(kernel.code)
        return
    if declared := DECLARATION.match(statement):
        _declare(kernel, declared[1], declared[2], scopes)
        return
    guard, negated, rest = "", False, statement
    if guarded := PREDICATE.match(statement):
        negated, guard, rest = guarded[1] == "!", _resolve(guarded[2], scopes), guarded[3]
    name, _, arguments = rest.partition(" ")
    operands = tuple(
        tuple(_resolve(part, scopes) for part in re.split(r"\s*,\s*", operand[1:-1].strip()))
        if operand.startswith("{")
        else _resolve(operand, scopes)
        for operand in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", arguments.strip())
    )
    kernel.code.append(Instruction(name, operands, guard, negated, statement))


def _declare(kernel: Kernel, kind: str, names: str, scopes: list[dict[str, str]]) -> None:
    for name in re.split(r"\s*,\s*", names):
        many = re.match(r"(%?\w+)<(\d+)>", name)
        if many:
            kernel.registers |= {f"{many[1]}{i}": kind for i in range(int(many[2]))}
            continue
        # Registers of inline assembly are known by the same name in every scope.
        own = f"{name}@{len(kernel.registers)}" if len(scopes) > 1 else name
        scopes[-1][name] = own
        kernel.registers[own] = kind


def _resolve(operand: str, scopes: list[dict[str, str]]) -> str:
    operand = operand.strip()
    if operand.startswith("["):
        base, plus, offset = (part.strip() for part in operand[1:-1].partition("+"))
        return f"[{_resolve(base, scopes)}{plus}{offset}]"
    return next((scope[operand] for scope in reversed(scopes) if operand in scope), operand)
