"""The many ways in which checkpoints say how weights are quantized, as names of ``sizing.weight_formats``.

One :class:`Scheme` says it all: the format of everything that is not mentioned, formats of named modules, and
modules left alone. Read here: compressed-tensors, modelopt (``quant_algo``, ``config_groups``,
``quantized_layers``, ``hf_quant_config.json``), fp8 (whole, per channel, in tiles), GPTQ, AWQ, AutoRound,
bitsandbytes, MXFP4, HQQ, EETQ, FP-Quant, torchao, Quark, and SGLang's own (``w8a8_int8``, ``w4afp8`` ...).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

IGNORED_KEYS = (
    "ignore",
    "modules_to_not_convert",
    "ignored_layers",
    "exclude_modules",
    "exclude",
    "llm_int8_skip_modules",
)
"""Under which names schemes list what they leave alone."""

SPECIAL = re.compile(r"[*+?^$()\[\]{}|\\]")
"""By these characters AutoRound tells expressions from names."""

MOST_NAMES = 1 << 16
"""Names of modules that are looked at: more than any checkpoint lists."""

ALGORITHMS = {
    "NVFP4": "nvfp4", "W4A16_NVFP4": "nvfp4", "W4A8_NVFP4": "nvfp4", "NVFP4_AWQ": "nvfp4",
    "NVFP4_SVDQUANT": "nvfp4",
    "FP8": "fp8", "FP8_PER_CHANNEL_PER_TOKEN": "fp8_channel", "FP8_PB_WO": "fp8_block128",
    "FP8_PB_REAL": "fp8_block128",
    "W4A16_AWQ": "int4_group128", "W4A8_AWQ": "int4_group128", "INT4_AWQ": "int4_group128",
    "W4A16": "int4_group128",
    "INT8_SQ": "int8", "W8A8_SQ_PER_CHANNEL": "int8", "W8A16": "int8",
    "MXFP8": "mxfp8", "MXFP4": "mxfp4", "W4A8_MXFP4_FP8": "mxfp4", "W4A16_MXFP4": "mxfp4",
}  # fmt: skip
"""modelopt's names."""


INTEGERS = frozenset(
    {
        "awq", "gptq", "auto-round", "autoround", "gptq-marlin", "awq-marlin", "intel/auto-round", "inc",
        "auto-gptq", "auto-awq", "moe-wna16",
    }
)  # fmt: skip
"""Methods that store integer codes, with ``bits`` and ``group_size``."""

OWN_NAMES = {
    "w8a8-int8": "int8", "auto-round-int8": "int8", "blockwise-int8": "int8_block128",
    "w8a8-fp8": "fp8_channel",
}  # fmt: skip
"""Methods that SGLang has for checkpoints of one format."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """``default``: format of what nothing names (``None``: left alone); ``named``: (pattern, format) pairs.

    ``instead``: what left-alone modules are stored in when it is not the model's dtype.
    """

    default: str | None
    named: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    instead: str | None = None
    linear: bool = False
    """Every linear module is meant, the output head included."""
    notes: tuple[str, ...] = ()


def read_scheme(raw: Mapping[str, Any]) -> Scheme:
    """The scheme of a quantization configuration; one that is not known has no formats and a note."""
    if isinstance(raw.get("quantization"), Mapping):  # hf_quant_config.json
        raw = {**raw["quantization"], "quant_method": "modelopt"}
    method = str(raw.get("quant_method") or "").lower().replace("_", "-")
    algorithm = str(raw.get("quant_algo") or "").upper()
    ignored = tuple(_ignored(raw))
    if raw.get("moe_quant_algo"):  # the experts in one format, the rest as the file's own method has it
        experts = ALGORITHMS.get(str(raw["moe_quant_algo"]).upper())
        rest = _fp8(raw) if method == "fp8" else None
        return Scheme(None, ((".experts.", experts),) if experts else (), (), rest)
    if algorithm == "MIXED_PRECISION":
        return Scheme(None, tuple(_listed(raw)), ignored)
    if method == "quark":
        return _quark(raw, ignored)
    # vLLM's classes of these take the output head for a linear module (``ModelOptQuantConfigBase``).
    linear = method.startswith(("modelopt", "compressed")) or method == "mxfp8"
    if raw.get("config_groups"):
        return _groups(raw, ignored, linear)
    if method.startswith("compressed") and raw.get("config_groups") == {}:  # the cache alone is quantized
        return Scheme(None, (), ignored)
    if algorithm:
        found = ALGORITHMS.get(algorithm)
        return Scheme(found, (), ignored, linear=linear, notes=() if found else _unknown(algorithm))
    if method == "w4afp8":
        return Scheme("fp8_block128", ((".experts.", "int4_group128"),), ignored)
    found, notes = _by_method(method, raw)
    named, left = _own_bits(raw) if method in INTEGERS else ((), ())
    if method in INTEGERS and raw.get("lm_head") is True and found is not None:
        named += (("lm_head", found),)
    ignored += left
    if found == "mxfp4" and raw.get("data_type"):  # AutoRound's is of all linear modules but the output head
        return Scheme(found, (), (*ignored, "lm_head"), linear=True)
    return Scheme(found, named, ignored, linear=linear, notes=notes)


def _by_method(method: str, raw: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    if method in ("mxfp4", "gpt-oss-mxfp4", "mxfp8"):
        return method.removeprefix("gpt-oss-"), ()
    if method in ("fp8", "finegrained-fp8", "fbgemm-fp8", "ptpc-fp8", "fp8-block"):
        return _fp8(raw), ()
    if method in OWN_NAMES:
        return OWN_NAMES[method], ()
    if method == "fp-quant":
        name = str(raw.get("forward_dtype") or "mxfp4")
        return (name, ()) if name in ("mxfp4", "nvfp4") else (None, _unknown(f"fp-quant {name}"))
    if method in INTEGERS:
        bits = raw.get("bits", raw.get("w_bit", 4))
        floating = _floating_round(str(raw.get("data_type") or ""), bits)
        if floating is not None:
            return floating, ()
        return integer_format(
            bits, raw.get("group_size", raw.get("q_group_size", 128 if bits == 4 else None))
        )
    if method == "bitsandbytes":
        if not raw.get("load_in_4bit", raw.get("_load_in_4bit")):
            return "int8", ()
        return ("nf4_double" if raw.get("bnb_4bit_use_double_quant") else "nf4"), ()
    if method == "eetq":
        return "int8", ()
    if method == "hqq":
        inner = raw.get("quant_config")
        params = inner.get("weight_quant_params", inner) if isinstance(inner, Mapping) else {}
        return integer_format(params.get("nbits", 4), params.get("group_size", 64))
    if method == "torchao":
        return _torchao(raw)
    if not method and "bits" in raw and "group_size" in raw:  # MLX
        return integer_format(raw["bits"], raw["group_size"])
    return None, _unknown(method or "without a name")


def _own_bits(raw: Mapping[str, Any]) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """``(formats of modules that have bits or groups of their own, modules left alone)``.

    AutoRound's ``extra_config`` has names and expressions; GPTQModel's ``dynamic`` expressions, with ``+:``
    in front or nothing (``-:`` is read with the modules left alone).
    """
    named: list[tuple[str, str]] = []
    left: list[str] = []
    for key in ("extra_config", "dynamic"):
        table = raw.get(key)
        for name, entry in list(table.items())[:MOST_NAMES] if isinstance(table, Mapping) else ():
            if not isinstance(name, str) or name.startswith("-:") or not isinstance(entry, Mapping):
                continue
            plain = key == "extra_config" and not SPECIAL.search(name)
            pattern = name if plain else "re:" + name.removeprefix("+:")
            bits = entry.get("bits", raw.get("bits", 4))
            if isinstance(bits, int) and bits >= 16:
                left.append(pattern)
                continue
            form, _ = integer_format(bits, entry.get("group_size", raw.get("group_size")))
            if form is not None:
                named.append((pattern, form))
    return tuple(named), tuple(left)


def _floating_round(kind: str, bits: object) -> str | None:
    """AutoRound's formats that are no integers, by their ``data_type``."""
    if "mx_fp" in kind:
        return {4: "mxfp4", 8: "mxfp8"}.get(bits) if isinstance(bits, int) else None
    if "nv_fp" in kind:
        return "nvfp4"
    return "fp8" if kind.startswith("fp") and bits == 8 else None


def _quark(raw: Mapping[str, Any], ignored: tuple[str, ...]) -> Scheme:
    """Quark: a scheme for all linear modules, and others for modules by pattern."""
    default, notes = _quark_weights(raw.get("global_quant_config"))
    table = raw.get("layer_quant_config")
    named = []
    for name, entry in list(table.items())[:MOST_NAMES] if isinstance(table, Mapping) else ():
        found, words = _quark_weights(entry)
        notes += words
        if found is not None:
            named.append((str(name), found))
    return Scheme(default, tuple(named), ignored, linear=True, notes=tuple(dict.fromkeys(notes)))


def _quark_weights(entry: object) -> tuple[str | None, tuple[str, ...]]:
    weight = entry.get("weight") if isinstance(entry, Mapping) else None
    listed = weight if isinstance(weight, list) else [weight]
    steps: list[Mapping[str, Any]] = [step for step in listed if isinstance(step, Mapping)]
    if not steps:
        return None, ()
    # Of two steps (FP8, then INT4 of that; FP4, then its scales in FP8) the one of fewer bits is stored.
    stored = next((step for step in steps if str(step.get("dtype")) in ("fp4", "int4", "uint4")), steps[-1])
    kind, group, scheme = (str(stored.get(key)) for key in ("dtype", "group_size", "qscheme"))
    if kind == "fp8_e4m3":
        return {"per_channel": "fp8_channel", "per_block": "fp8_block128"}.get(scheme, "fp8"), ()
    if kind == "fp4" and group in ("16", "32"):
        return ("mxfp4" if group == "32" else "nvfp4"), ()
    if kind in ("int4", "uint4", "int8"):
        return integer_format(int(kind[-1]), stored.get("group_size"))
    return None, _unknown(f"quark {kind}")


def _torchao(raw: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    text = str(raw.get("quant_type") or "").lower()
    if "int4" in text:
        group = re.search(r"'group_size': (\d{1,4})\b", str({**raw, "modules_to_not_convert": None}))
        return integer_format(4, int(group.group(1)) if group else 128)
    if "int8" in text:
        return "int8", ()
    if "float8" in text or "fp8" in text:
        return "fp8_channel", ()
    return None, _unknown("torchao")


def _unknown(name: str) -> tuple[str, ...]:
    return (f"weight quantization {name!r} is not known; sized as stored in 16 bits",)


def _fp8(raw: Mapping[str, Any]) -> str:
    if raw.get("weight_block_size"):
        return "fp8_block128"
    per_channel = str(raw.get("quant_method")).lower() in ("fbgemm_fp8", "ptpc_fp8")
    return "fp8_channel" if per_channel else "fp8"


def integer_format(bits: object, group: object) -> tuple[str | None, tuple[str, ...]]:
    """Format of integer codes; a group of -1 is a whole row."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
        return None, (f"{str(bits)[:20]}-bit weights are not known; sized as stored in 16 bits",)
    if group in (-1, None):
        return ("int8" if bits == 8 else f"int{bits}_channel"), ()
    whole = isinstance(group, int) and not isinstance(group, bool) and 8 <= group <= 8192
    return f"int{bits}_group{group if whole else 128}", ()


def _groups(raw: Mapping[str, Any], ignored: tuple[str, ...], linear: bool) -> Scheme:
    default: str | None = None
    named: list[tuple[str, str]] = []
    notes: list[str] = []
    groups = raw["config_groups"]
    for group in groups.values() if isinstance(groups, Mapping) else ():
        if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
            continue
        found, words = _weights_of(group)
        notes += words
        if found is None:
            continue
        targets = group.get("targets")
        names = (
            [item for item in targets[:MOST_NAMES] if isinstance(item, str)]
            if isinstance(targets, list)
            else []
        )
        classes = [name for name in names if name[:1].isupper() and "." not in name]
        if classes or not names:
            default = default or found
        named += [(name, found) for name in names if name not in classes]
    if default is None and not named:
        notes.append("the quantization configuration has no scheme for weights")
    named += _listed(raw)
    return Scheme(default, tuple(named), ignored, linear=linear, notes=tuple(dict.fromkeys(notes)))


def _weights_of(group: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    scheme = group["weights"]
    bits, size = scheme.get("num_bits"), scheme.get("group_size")
    if scheme.get("type") == "float":
        if bits == 8:
            if size == 32:
                return "mxfp8", ()
            strategy = str(scheme.get("strategy") or "tensor")
            return {"block": "fp8_block128", "channel": "fp8_channel"}.get(strategy, "fp8"), ()
        if bits == 4:
            return ("mxfp4" if size == 32 else "nvfp4"), ()
    return integer_format(bits, size)


def _listed(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """modelopt's table of quantized modules."""
    table = raw.get("quantized_layers")
    if not isinstance(table, Mapping):
        return
    for name, entry in list(table.items())[:MOST_NAMES]:
        algorithm = entry.get("quant_algo") if isinstance(entry, Mapping) else None
        if (found := ALGORITHMS.get(str(algorithm).upper())) is not None:
            yield str(name), found


def _ignored(raw: Mapping[str, Any]) -> Iterator[str]:
    for key in IGNORED_KEYS:
        value = raw.get(key)
        if isinstance(value, list):
            yield from (item for item in value[:MOST_NAMES] if isinstance(item, str))
    dynamic = raw.get("dynamic")
    if isinstance(dynamic, Mapping):  # GPTQModel: "-:" before an expression leaves the module alone
        yield from ("re:" + str(key)[2:] for key in dynamic if str(key).startswith("-:"))
