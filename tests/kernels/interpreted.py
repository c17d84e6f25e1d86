"""Triton's interpreter, without looking through all of ``triton.language`` at every call of a device function.

The interpreter replaces the language's builtins at every launch and, again, at every call of one kernel's function by
another. Which they are does not change, and those that a launch has replaced stay so until it ends: to find them and to
replace them anew takes a third of the time that a kernel here takes.
"""

from __future__ import annotations

import inspect
from typing import Any

import triton
import triton.language as tl
from triton.language import core
from triton.runtime import interpreter

_builtins: dict[Any, list[str]] = {}
_languages: dict[int, list[Any]] = {}
_whole = interpreter._patch_lang
_elements: dict[str, Any] = {}
_element = interpreter._get_np_dtype


def _names(package: Any) -> list[str]:
    """Of a package's builtins, found when they are first asked for."""
    if package not in _builtins:
        members = inspect.getmembers(package)
        _builtins[package] = [name for name, member in members if core.is_builtin(member)]
    return _builtins[package]


def _patch_builtin(package: Any, builder: Any, scope: Any) -> None:
    """As the interpreter's own."""
    for name in _names(package):
        member = getattr(package, name)
        if core.is_builtin(member):  # not replaced yet
            interpreter._patch_attr(package, name, member, builder, scope)


def _patch_lang(fn: Any) -> Any:
    """As the interpreter's own; nothing is left to do for a function whose caller's language is its own."""
    seen = _languages.get(id(fn.__globals__))
    if seen is None:
        seen = [value for value in fn.__globals__.values() if value is tl or value is core]
        _languages[id(fn.__globals__)] = seen
    if seen and not any(core.is_builtin(getattr(language, _names(language)[0])) for language in seen):
        return interpreter._LangPatchScope()
    return _whole(fn)


def _get_np_dtype(dtype: Any) -> Any:
    """As the interpreter's own, which makes a table of all of them at every call."""
    scalar = dtype.scalar
    if scalar.name not in _elements:
        _elements[scalar.name] = _element(scalar)
    return _elements[scalar.name]


def remember_builtins() -> None:
    """From now on, in this process."""
    interpreter._patch_builtin = _patch_builtin
    interpreter._patch_lang = _patch_lang
    interpreter._get_np_dtype = _get_np_dtype


@triton.constexpr_function
def one_lot(rows: Any, width: Any) -> int:
    """In place of ``reduce.lots_at_once``."""
    return 1
