"""Multi-token-prediction (MTP) layers: how many a checkpoint has, and of what kind.

Kinds as the classes of vLLM 0.33 read them (``deepseek_mtp``, ``mimo_v2_mtp``, ``step3p5_mtp``).
"""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.specs.attention import CompressedAttention
from kvplan.specs.huggingface.config import Config
from kvplan.specs.mlp import DenseMlp, MoeMlp
from kvplan.specs.model import Block, Draft

UNSAID = {"qwen3_next": 1, "longcat_flash": 1, "mimo_v2_flash": 1, "mimo_v2": 1, "mimo_v2_omni": 1}
"""Layers of checkpoints whose configurations do not mention them; of MiMo-V2's three vLLM runs the first."""
PLAIN = ("mimo_v2_flash", "mimo_v2", "mimo_v2_omni", "step3p5", "step3p7")
"""Families whose layers have windows and no experts, unless a list says otherwise."""


def draft(config: Config, blocks: Sequence[Block]) -> Draft | None:
    """Layers that draft: like the topmost layer that has attention, as far as nothing else is said."""
    layers = UNSAID.get(config.model_type, 0)
    for key in ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers", "num_mtp_modules"):
        value = config.get(key, defaults=False)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 64:
            layers = value
            break
    attending = [block for block in reversed(blocks) if block.attention is not None]
    if not layers or not attending:
        return None
    plain = config.model_type in PLAIN
    kind = _after_the_stack(config, "layer_types", "mtp_layer_types", len(blocks))
    kind = kind or ("sliding_attention" if plain else None)
    block = next((item for item in attending if kind in (None, _kind(item))), attending[0])
    mlp_kind = _after_the_stack(config, "mlp_layer_types", "mtp_mlp_layer_types", len(blocks))
    dense = mlp_kind == "dense" if mlp_kind is not None else plain
    if dense and (mlp := next((item.mlp for item in blocks if isinstance(item.mlp, DenseMlp)), None)):
        block = block.model_copy(update={"mlp": mlp})
    return Draft.model_construct(layers=layers, block=_changed(config, block, len(blocks)))


def _after_the_stack(config: Config, key: str, own: str, layers: int) -> object:
    """What a list says of the first layer behind the stack, or a list for such layers."""
    for name, place in ((own, 0), (key, layers)):
        listed = config.get(name, defaults=False)
        if isinstance(listed, list) and len(listed) > place:
            return listed[place]
    return None


def _kind(block: Block) -> str:
    """As lists of configurations call it."""
    return f"{getattr(block.attention, 'kind', None)}_attention"


def _changed(config: Config, block: Block, layers: int) -> Block:
    """DeepSeek-V4's drafting layers have the ratios that follow the stack's, DSpark's fewer experts."""
    changed: dict[str, object] = {}
    ratios = config.get("compress_ratios", defaults=False)
    plain = isinstance(ratios, list) and not any(ratios[layers : layers + 1])
    if isinstance(block.attention, CompressedAttention) and plain:
        alone = {"ratio": 0, "overlap": False, "compresses": True, "indexer": None}
        changed["attention"] = block.attention.model_copy(update=alone)
    number = config.optional("dspark_n_routed_experts")
    if number is not None and isinstance(block.mlp, MoeMlp):
        chosen = config.integer("dspark_num_experts_per_tok", block.mlp.experts_per_token)
        fewer = {"experts": number, "experts_per_token": min(chosen, number)}
        changed["mlp"] = block.mlp.model_copy(update=fewer)
    return block.model_copy(update=changed)
