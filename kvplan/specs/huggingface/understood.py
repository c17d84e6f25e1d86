"""Refusing what is not understood: by name, with the fields, and never by guessing."""

from __future__ import annotations

import re
from collections.abc import Mapping

from kvplan.errors import SpecError
from kvplan.specs.huggingface import families
from kvplan.specs.huggingface.config import NAMES, Config, class_defaults
from kvplan.specs.huggingface.heads import is_of_old_lineage

STRUCTURAL = (
    r"attn|attention|head|kv|cache|window|layer|latent|lora|compress|index|sparse|conv|ssm|mamba|state|recurrent|"
    r"linear|block|pattern|chunk|mla|share|hybrid|memory|sink|local|global|stride|pool|loop|recur|cycle|ut_step|repeat"
)
"""Words in the names of fields that may change what a layer keeps."""

COUNTERS = r"loop|recur|cycle|ut_step|repeat|ratio|factor|every_n"
"""Words in the names of fields that count or divide: one changes nothing."""

HARMLESS = (
    r"dropout|pdrop|_eps$|epsilon|_bias$|^bias|layer_?norm|rms|norm_|_norm|init|token_id|token_index|_act$|activation|"
    r"implementation|softcap|rope|rotary|theta|logit|router|aux|loss|expert|moe|mup|scale|scaling|multiplier|"
    r"layerdrop|layer_drop|use_cache|head_bias|vocab|tie_|tied|train|gradient|checkpoint|parallel|flash|fused|kernel_impl|"
    r"softmax|alibi|summary|classifier|pretraining|torch|dtype|quant|version|auto_map|^_|id2label|label2id|chunk_size_feed|"
    r"output_hidden_states|output_attentions|pruned_heads|cross_attention_hidden_size|add_cross|mm_|vision|image|video|"
    r"audio|mtp|nextn|query_pre_attn|freeze|embed|max_window_layers|use_sliding_window|num_logits_to_keep|residual|"
    r"hidden_states|no_repeat|lm_head|^embd|speech|^spatial_|^temporal_|use_mamba_kernels|time_step|max_batch|static_cache|cache_implementation|"
    r"cache_quantization|keys_to_ignore|attn_config|num_key_value_heads|head_dim|num_heads|"
    r"gate_func|sparse_step|projection_layout|attn_res|output_gate|gated_attention|"
    r"blocksparse|dense_attention_every|"
    r"sink_attention|^no_kda_lora$|^linear_attention_type$|^prefix_attn$|^position_layers$|^param_sink|^block_(size|length)$"
)

LEFT_ALONE = frozenset(
    {
        "L_bp_cycles", "attn_mode", "candidate_block_size", "candidate_source_layer_id",
        "candidate_topk_blocks", "chunk_size", "chunkwise_kernel", "dspark_block_size",
        "dspark_markov_rank", "dspark_target_layer_ids", "hc_sinkhorn_iters", "head_size_divisor",
        "index_kpool_always_select_tail", "indexer_budget", "linear_a_log_max", "linear_allow_neg_eigval",
        "linear_dt_max", "linear_dt_min", "linear_type", "mamba_chunk_size", "max_inference_chunksize",
        "num_hash_layers", "relative_attention_max_distance", "relative_attention_num_buckets",
        "return_last_states", "use_attention_gate", "use_bidirectional_attention",
    }
)  # fmt: skip
"""Fields of known architectures that are read by their engines and change no cache."""

SIZE_DECIDING = (
    "num_hidden_layers", "sliding_window", "kv_lora_rank", "hidden_size", "vocab_size", "intermediate_size",
    "num_attention_heads",
)  # fmt: skip
HEADS = ("num_key_value_heads", "head_dim")
"""Fields that published configurations write (the latter not beside a latent): without, a file may be cut."""

OF_SOME_TYPES = (
    "kv_lora_rank", "num_kv_shared_layers", "index_topk", "index_head_dim", "linear_num_value_heads",
    "full_attention_interval", "attention_chunk_size", "global_head_dim", "num_global_key_value_heads",
    "indexer_n_heads", "mamba_d_state", "ssm_state_size",
)  # fmt: skip
"""Fields that change what a layer keeps, and that only the classes with them look at."""

ELSEWHERE = ("text_model_id", "llm_model_id", "language_model_id", "text_model_name_or_path")
"""Fields that name the repository of a language model."""

ENCODER_TASKS = (
    "MaskedLM",
    "ImageClassification",
    "SequenceClassification",
    "TokenClassification",
    "QuestionAnswering",
    "ObjectDetection",
    "AudioClassification",
)

KNOWN_WITHOUT_DEFAULTS = (
    families.STANDARD | families.PLAIN_MHA | families.LIGHTNING | families.KIMI_DELTA | families.FP32_STATE
    | families.RWKV
    | frozenset({"falcon", "phi4flash", "RefinedWeb", "RefinedWebModel", "deepseek_ref", "nemotron_h",
                 "step3p7"})
)  # fmt: skip


def refuse_other_files(data: Mapping[str, object], path: str) -> None:
    """Files that are JSON but not a model's configuration.

    Raises:
        SpecError: saying what the file is instead.
    """
    other = {
        "_class_name": "a diffusers pipeline or component",
        "peft_type": "an adapter (LoRA)",
        "weight_map": "an index of weight files",
        "added_tokens_decoder": "a tokenizer's configuration",
        "image_processor_type": "an image processor's configuration",
        "feature_extractor_type": "a feature extractor's configuration",
    }
    for key, what in other.items():
        if key in data and "num_hidden_layers" not in data:
            raise SpecError(f"this is {what}, not a model's config.json", where=f"{path}  {key}")
    if not data:
        raise SpecError("an empty object is not a model's config.json", where=path)


def refuse_elsewhere(config: Config) -> None:
    """A file that names another repository for its language model (Ultravox) and describes none.

    Raises:
        SpecError: naming it.
    """
    described = config.has("num_hidden_layers") or config.has("layer_types")
    named = next((key for key in ELSEWHERE if isinstance(config.top.get(key), str)), None)
    if described or named is None:
        return
    other = str(config.top[named])[:120]
    raise SpecError(
        f"its language model is another repository's: {other!r}",
        where=f"{config.path}  {named}",
        hint=f"its cache is that model's: kvplan size {other}, or the path of that repository's config.json",
    )


def refuse_several_stacks(config: Config) -> None:
    """A section for a decoder beside sections for further stacks that are no encoder (BLT) is not the model.

    Raises:
        SpecError: naming the sections.
    """
    chosen = config.prefix.removesuffix(".")
    if not chosen.startswith("decoder"):
        return
    others = [
        key
        for key, part in config.top.items()
        if isinstance(part, Mapping)
        and key != chosen
        and not re.search(r"encoder|vision|audio", key)
        and any(name in part for name in ("num_hidden_layers", *NAMES["num_hidden_layers"]))
    ]
    if others:
        raise SpecError(
            f"several stacks of layers keep a cache: {chosen} and {', '.join(others)}; "
            "how many positions each has is not in the file",
            where=f"{config.path}  {others[0]}",
            hint="write its shape as a spec (kvplan models show NAME prints one to start from)",
        )


def refuse_without_cache(config: Config) -> None:
    """Models that generate nothing token by token, or keep something else than K and V of each token.

    Raises:
        SpecError: naming the architecture.
    """
    name = config.architecture or config.model_type
    kinds = (str(config.top.get("model_type")), config.model_type)
    why = next((families.NO_KV_CACHE[kind] for kind in kinds if kind in families.NO_KV_CACHE), None)
    if why is not None:
        raise SpecError(
            f"architecture {name!r} has no cache whose bytes follow from its configuration: {why}",
            where=f"{config.path}  {config.prefix}model_type",
        )
    decodes = config.get("is_decoder", defaults=False) is True
    suffixes = tuple(f"For{task}" for task in ENCODER_TASKS)
    encoder = config.model_type in families.ENCODER_ONLY or (
        config.architecture.endswith(suffixes) and config.defaults is None
    )
    if (encoder or _looks_both_ways(config)) and not decodes:
        raise SpecError(
            f"architecture {name!r} is an encoder: it generates nothing and keeps no KV cache",
            where=f"{config.path}  {config.prefix}model_type",
        )
    if not config.model_type and not config.architecture:
        missing = [key for key in ("num_hidden_layers", "hidden_size") if not config.has(key)]
        if missing:
            raise SpecError(
                f"not a transformer's configuration: it has no model_type and no {' and no '.join(missing)}",
                where=config.path,
            )


def _looks_both_ways(config: Config) -> bool:
    """Whether a decoder's layers were made an encoder's: embedding models of Llama, Qwen, Gemma, LFM.

    PaliGemma's prompts look both ways too; what its whole model generates is cached.
    """
    said = config.get("is_causal", defaults=False) is False
    both = config.get("use_bidirectional_attention", defaults=False) is True and not config.prefix
    named = "Bidirectional" in config.architecture or config.model_type.endswith("_bidirec")
    return said or (both and config.architecture.endswith("Model")) or named


def is_known(config: Config) -> bool:
    """Whether the model type's habits are known."""
    return config.defaults is not None or config.model_type in KNOWN_WITHOUT_DEFAULTS


def refuse_silent_heads(config: Config) -> None:
    """Before anything is read: a model type that is not known must say how many heads it keeps.

    Raises:
        SpecError: the architecture, and the fields that no known architecture has.
    """
    explicit = ("num_key_value_heads", "kv_lora_rank", "multi_query_group_num", "block_configs")
    listed = ("num_key_value_heads_per_layer", "attn_config", "multi_query_attention")
    if is_known(config) or is_of_old_lineage(config) or any(config.has(key) for key in (*explicit, *listed)):
        return
    if any(config.model_type.startswith(kind) for kind in ("rwkv", "mamba", "xlstm")):
        return
    known = {name for group in NAMES.items() for name in (group[0], *group[1])}
    known |= {field for fields in class_defaults().values() for field in fields}
    standard = ("model_type", "architectures", "transformers_version", "hidden_act", "dtype", "torch_dtype")
    strange = [
        key
        for key, value in config.data.items()
        if key not in known
        and key not in standard
        and value not in (None, False, [], {})
        and not re.search(HARMLESS, key.casefold())
    ]
    name = config.architecture or config.model_type or "without architectures and model_type"
    fields = ", ".join(["num_key_value_heads (absent)", *sorted(strange)[:12]])
    raise SpecError(
        f"architecture {name!r} is not understood; it does not say how many KV heads it has, and kvplan does "
        f"not assume one per query head; fields not understood: {fields}",
        where=f"{config.path}  {config.prefix}num_key_value_heads",
        hint="write its shape as a spec (kvplan models show NAME prints one to start from)",
    )


def refuse_unknown_fields(config: Config) -> str | None:
    """For a model type that is not known: every structural field must have been read.

    Returns:
        A warning when the fields said it all.

    Raises:
        SpecError: the architecture and the fields that were not understood.
    """
    if is_known(config):
        return None
    unread = unread_fields(config)
    name = config.architecture or config.model_type or "without a name"
    said = ("num_key_value_heads", "kv_lora_rank", "multi_query_group_num")
    explicit = is_of_old_lineage(config) or any(config.has(key) for key in said)
    if unread or not explicit:
        fields = ", ".join(sorted(unread)) or "num_key_value_heads (absent)"
        raise SpecError(
            f"architecture {name!r} is not understood; fields that may change its cache: {fields}",
            where=f"{config.path}  {config.prefix}{sorted(unread)[0] if unread else 'num_key_value_heads'}",
            hint="write its shape as a spec (kvplan models show NAME prints one to start from)",
        )
    return f"architecture {name!r} is new to kvplan; it was read by its fields alone"


def unsaid(config: Config) -> list[str]:
    """Warnings about a known model type: fields it is not known to have, sizes that its file leaves out."""
    if not is_known(config):
        return []
    warnings = []
    fields = {field for defaults in class_defaults().values() for field in defaults} | LEFT_ALONE
    strange = sorted(set(unread_fields(config)) - fields)
    if strange:
        warnings.append(
            f"{config.model_type} is not known to have {', '.join(strange[:6])}"
            f"{f' and {len(strange) - 6} more' if len(strange) > 6 else ''}: sized without"
        )
    warnings += _foreign(config)
    listed = config.get("layer_types")
    if (
        config.model_type in families.ONE_WINDOW_IN_VLLM
        and isinstance(listed, list)
        and len({*map(str, listed)}) > 1
    ):
        warnings.append(
            f"vLLM's class for {config.model_type} has no windows of single layers: there all are full"
        )
    deciding = SIZE_DECIDING if config.get("kv_lora_rank") else (*SIZE_DECIDING, *HEADS)
    left_out = {key: config.get(key) for key in deciding if config.spelt(key) not in config.data}
    if config.model_type in families.FLAGGED_WINDOW and not config.flag("use_sliding_window"):
        left_out.pop("sliding_window", None)
    taken = [f"{key} {value}" for key, value in left_out.items() if isinstance(value, int)]
    if taken:
        warnings.append(f"not in the file, so by the defaults of {config.model_type}: {', '.join(taken)}")
    return warnings


def _foreign(config: Config) -> list[str]:
    """Fields of other model types, which the engine's class for this one may pass over."""
    own = config.defaults
    if own is None:
        return []
    found = []
    for key in OF_SOME_TYPES:
        name = config.spelt(key)
        known = any(other in own for other in (key, *NAMES.get(key, ())))
        if known or config.data.get(name) in (None, False, 0, [], {}):
            continue
        how = "with it" if name in config.used else "without"
        found.append(f"{name} is a field of other model types than {config.model_type}: sized {how}")
    return found


def unread_fields(config: Config) -> list[str]:
    """Fields that may change what a layer keeps, and that nothing has looked at."""
    names = {name for group in NAMES.items() for name in (group[0], *group[1])}
    layers = config.get("num_hidden_layers")
    # Fields of an encoder are read with it, or it has a section of its own.
    beside = config.prefix.endswith("decoder.") or config.data.get("is_encoder_decoder") is True
    return [
        key
        for key, value in config.data.items()
        if key not in config.used
        and key not in names
        and not (beside and key.startswith("encoder_"))
        and value not in (None, False, [], {})
        and not (value == 1 and value is not True and re.search(COUNTERS, key.casefold()))
        and (re.search(STRUCTURAL, key.casefold()) or _tells_layers_apart(value, layers))
        and not re.search(HARMLESS, key.casefold())
    ]


def _tells_layers_apart(value: object, layers: object) -> bool:
    """Whether a field has an entry for every layer, and not the same for all: whatever it is called."""
    return (
        isinstance(value, list)
        and len(value) == layers
        and any(item != value[0] or type(item) is not type(value[0]) for item in value)
    )
