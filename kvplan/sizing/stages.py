"""Pipeline stages: the layers an engine gives each, the tables its classes build there, and who has none.

Sources: ``get_pp_indices`` of both engines (vLLM 0.6 to 0.33, SGLang 0.5.1 to 0.5.23), the model classes of
vLLM 0.33 built rank by rank, and ``support_pp`` of SGLang 0.5.23's. Partitions given by hand
(``VLLM_PP_LAYER_PARTITION``, ``SGLANG_PP_LAYER_PARTITION``) are not planned with.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from kvplan.sizing.sglang.names import Version, named
from kvplan.sizing.support import PLAIN_FAMILIES
from kvplan.specs.attention import SharedAttention
from kvplan.specs.schema import Component, ModelSpec

MIDDLE_TAKES_MORE = (0, 8, 0)
"""vLLM from here on spares the last stage, and the first as long as it can; before, the last took all."""

LAST_TAKE_MORE = (0, 5, 6)
"""SGLang from here on gives the last stages one layer more each; before, the last took all."""


def stages(layers: int, pp: int, engine: str = "vllm", version: Version | None = None) -> tuple[range, ...]:
    """Layers of each of ``pp`` stages, by the rule of ``engine`` (default of ``version``: its newest)."""
    sizes = [layers // pp] * pp
    odd = layers % pp
    since = LAST_TAKE_MORE if engine == "sglang" else MIDDLE_TAKES_MORE
    if version is not None and version < since:
        sizes[-1] += odd
    else:
        spared = 0 if engine == "sglang" or pp == 1 else 1
        for place in range(pp - spared - odd, pp - spared):
            sizes[place] += 1
    bounds = [0]
    for size in sizes:
        bounds.append(bounds[-1] + size)
    return tuple(range(start, end) for start, end in pairwise(bounds))


@dataclass(frozen=True, slots=True)
class StageTables:
    """What a class builds on every stage, rather than on the first or the last: tables, towers for images."""

    embeddings: bool = False
    head: bool = False
    towers: bool = False


_BOTH = (
    "aya", "bloom", "c4ai", "chatglm", "cohere", "command", "dbrx", "falconmamba",
    "gemma", "gpt2", "gptj", "gptoss", "hyv3", "internlm2", "jamba", "mamba", "minicpm",
    "mixtral", "opt", "orion", "plamo3", "rnj1", "stablelm",
)  # fmt: skip
_BOTH_BUT_PLAIN = ("granite", "nemotron", "nvidianemotron", "olmo", "phi", "qwen2", "qwen3")
"""Of these, the classes with experts or states."""
_BOTH_BEFORE: dict[str, Version] = {
    "baichuan": (0, 25, 0), "gptbigcode": (0, 25, 0), "gptneox": (0, 32, 0), "mpt": (0, 29, 0),
    "olmo": (0, 26, 0), "olmo3": (0, 29, 0), "phi1": (0, 32, 0), "phi2": (0, 32, 0), "phimsft": (0, 32, 0),
    "pythia": (0, 32, 0),
    "santacoder": (0, 25, 0), "starcoder": (0, 25, 0),
}  # fmt: skip
"""Classes that were vLLM's own before, and are Transformers' since: those have tables where they are used."""
_EMBEDDINGS = ("qwen35", "qwen36", "lfm")
"""Names and families, without signs, begin so of classes that do not ask which stage they are on."""

TOWERS_FIRST = (0, 33, 0)
"""vLLM from here on builds towers for images on the first stage only."""


def everywhere(model: ModelSpec, engine: str, version: Version | None = None) -> StageTables:
    """What is on every stage. SGLang's classes that can be cut into stages have no table where none is used.

    Args:
        version: of the engine, which were read from 0.18 on; default its newest.
    """
    if engine != "vllm":
        return StageTables(towers=not named(model, "gemma4"))
    towers = version is not None and version < TOWERS_FIRST
    if named(model, *_EMBEDDINGS):
        return StageTables(embeddings=True, towers=towers)
    both = model.family in PLAIN_FAMILIES or named(model, *_BOTH)
    both = both or (named(model, *_BOTH_BUT_PLAIN) and not _is_plain(model))
    if version is not None:
        both = both or named(model, *(start for start, gone in _BOTH_BEFORE.items() if version < gone))
    return StageTables(both, both, towers)


def _is_plain(model: ModelSpec) -> bool:
    return not has_experts(model) and all(block.state is None for block in model.blocks.values())


_DEALING = (
    "axk1", "deepseek", "glm5", "glmmoedsa", "interns1pro", "kimik", "llama4", "mistrallarge3",
    "nemotron", "nvidianemotron", "openpangu", "pangu", "qwen",
)  # fmt: skip
"""Classes of vLLM 0.33 that ask for ``use_sequence_parallel_moe``."""

_DEALING_THROUGHOUT = ("deepseekv32", "glm5", "glmmoedsa")
"""Of these, those whose dense layers do so, too."""


def whole_beside_dealt_tokens(model: ModelSpec) -> frozenset[Component]:
    """What each GPU of one of vLLM's data-parallel ranks has all of, where they share its tokens out."""
    if not named(model, *_DEALING):
        return frozenset()
    if named(model, *_DEALING_THROUGHOUT):
        return frozenset({"shared_experts", "dense_mlp"})
    return frozenset({"shared_experts"})


def has_experts(model: ModelSpec) -> bool:
    """Whether some layer has experts."""
    return any(block.mlp is not None and block.mlp.kind == "moe" for block in model.blocks.values())


_WHOLE_IN_VLLM = ("gemma3n", "mamba2", "codestralmamba", "zamba", "whisper")
"""Classes of vLLM 0.33 without ``SupportsPP``."""

_WHOLE_IN_SGLANG = (
    "afmoe", "aya", "baichuan", "c4ai", "chatglm", "codestralmamba", "cohere", "command", "dbrx",
    "deepseekmoe", "ernie", "exaone3", "falconh1", "falconmamba", "gemma2", "gemma3", "gemma7", "gpt2",
    "gptbigcode", "gptj", "granite3", "granitemoeshared", "grok", "hunyuan", "hyv3", "internlm2",
    "jetnemotron", "lfm", "llama4", "longcat", "mamba", "mimo7b", "minicpm", "mllama", "olmo", "orion",
    "phi1", "phi2", "phi35moe", "phimoe", "phimsft", "pixtral", "qwen2vl", "qwen3next", "qwen3omni",
    "santacoder", "stablelm", "starcoder", "step37", "step3vl", "whisper", "xverse",
)  # fmt: skip
"""Classes of SGLang 0.5.23 whose ``forward`` takes nothing from another stage."""


def unstaged(model: ModelSpec, engine: str, pp: int) -> str | None:
    """Why an engine cannot cut the model into ``pp`` stages, in words; None where it can."""
    if pp == 1:
        return None
    name = "SGLang" if engine == "sglang" else "vLLM"
    if named(model, *(_WHOLE_IN_SGLANG if engine == "sglang" else _WHOLE_IN_VLLM)):
        return f"{name}'s class of {model.name} has no pipeline stages"
    parts = stages(model.num_layers, pp, engine)
    for index, held in enumerate(parts):
        if (missing := _kept_elsewhere(model, held)) is not None:
            layer, source = missing
            return (
                f"{name} does not start with pp {pp}: layer {layer} of {model.name}, on stage {index}, reads "
                f"the KV of layer {source}, which is on an earlier one"
            )
    return None


def _kept_elsewhere(model: ModelSpec, held: range) -> tuple[int, int] | None:
    """The first layer of a stage that reads the KV of a layer of another, and that layer."""
    blocks = model.layers()
    for index in held:
        reader = blocks[index].attention
        if not isinstance(reader, SharedAttention):
            continue
        for source in range(index - 1, -1, -1):
            kept = blocks[source].attention
            if kept is None or isinstance(kept, SharedAttention):
                continue
            if getattr(kept, "window", None) == reader.window:
                if source not in held:
                    return index, source
                break
    return None
