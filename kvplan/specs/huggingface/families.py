"""What cannot be read from a file: habits of model types that their configurations leave unsaid.

Facts, each with its effect; everything else the rules read from the fields. A ``model_type`` that is listed
nowhere here is accepted only when its fields say all that matters (``reader.check_understood``).
"""

from __future__ import annotations

from typing import Literal


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PLAIN_MHA = _names(
    """
    gpt2 gptj gpt_neo gpt_neox gpt_neox_japanese gpt-neox opt bloom codegen biogpt xglm persimmon
    internlm baichuan qwen mpt openai-gpt ctrl phi-msft stablelm_epoch stablelm_alpha bart mbart pegasus
    marian m2m_100 blenderbot blenderbot-small whisper t5 mt5 umt5 longt5 switch_transformers nllb-moe
    moonshine moonshine_mha plbart speech_to_text trocr mvp led aquila xverse skywork orion gpt-sw3 rw_mha
    imagegpt zamba kosmos-2 fuyu cpmant pegasus_x
    prophetnet modernbert-decoder hrm_text git bigbird_pegasus jais btlm fsmt idefics kosmos_2_text_model
    kosmos_2_5_text_model musicgen_decoder musicgen_melody_decoder moonshine_streaming blip_text_model
    """
)
"""Attention modules that know no KV heads: every query head has its own."""

PERIODS: dict[str, tuple[int, str]] = {
    "gemma2": (2, "last"), "vaultgemma": (2, "last"), "gpt_oss": (2, "last"),
    "gemma3": (6, "last"), "gemma3_text": (6, "last"), "gemma3n": (5, "last"), "gemma3n_text": (5, "last"),
    "gemma4": (6, "last"), "gemma4_text": (6, "last"), "gemma4_unified_text": (6, "last"),
    "cohere2": (4, "last"), "exaone4": (4, "last"), "embedding_gemma2_text": (6, "last"), "beam": (6, "last"),
    "exaone_moe": (4, "last"), "olmo3": (4, "last"), "afmoe": (4, "last"), "kolibri1": (5, "last"),
    "t5gemma": (2, "last"), "t5gemma2": (6, "last"), "t5_gemma_module": (2, "last"),
    "t5gemma2_decoder": (6, "last"), "cohere2_moe": (4, "last"),
    "diffusion_gemma": (6, "last"),
    "granite_swa": (4, "first"), "granitemoe_swa": (4, "first"), "cwm": (4, "first"),
    "modernbert-decoder": (3, "first"), "muse_spark": (4, "end"), "muse_glimmer": (4, "end"),
    "mimo_v2_flash": (6, "first and last"), "spark2_5": (4, "last"),
}  # fmt: skip
"""Sliding layers with one full layer per period: which of the period it is (``end`` counts from the top).

A nested ``_text`` type that is not named has the period of the model around it.
"""

LAST_LAYER_FULL = frozenset(
    {
        "gemma4",
        "gemma4_text",
        "gemma4_unified",
        "gemma4_unified_text",
        "diffusion_gemma",
        "diffusion_gemma_text",
    }
)
"""The last layer is always full, whatever the pattern or list says."""

FLAGGED_WINDOW = _names(
    """
    qwen2 qwen2_moe qwen3 qwen3_moe qwen2_vl qwen2_5_vl mimo dots1 smollm3
    """
)
"""A window counts only with ``use_sliding_window`` (absent means no), from ``max_window_layers`` up."""

ONE_WINDOW_IN_VLLM = _names("hyperclovax mixtral nemotron olmoe phimoe qwen2_moe qwen3_moe stablelm")
"""vLLM's classes know one window for all layers or none: where a list mixes them, all keep everything."""

IGNORED_WINDOW = _names(
    """
    minimax_m2 nemotron_h minimax zaya laguna mellum mixtral_none
    """
)
"""``sliding_window`` is carried along but no layer uses it unless ``layer_types`` says so."""

WINDOW_BEFORE = ("cohere2",)
"""Beginnings of types whose window counts the tokens before a token, without itself (vLLM adds one)."""

RWKV = _names("rwkv rwkv5 rwkv6 rwkv7 rwkv6qwen2")
"""Layers without attention, of states only."""

UNGATED = _names(
    """
    rwkv rwkv5 rwkv6 rwkv7
    gpt2 gptj gpt_neo gpt_neox gpt_neox_japanese gpt_bigcode opt bloom codegen biogpt xglm persimmon
    falcon RefinedWeb RefinedWebModel mpt phi phi-msft starcoder2 nemotron whisper bart mbart pegasus
    marian m2m_100 blenderbot nemotron_h t5 stablelm_alpha apertus arcee xielu gpt-neox fuyu ctrl
    openai-gpt moonshine switch_transformers nllb-moe
    """
)
"""Feed-forward layers of two matrices."""

GATED = frozenset({"bitnet"})
"""Gated although their activation is one of the ungated kind."""

MLP_BIAS = _names(
    """
    gpt2 gptj gpt_neo gpt_neox gpt_neox_japanese gpt_bigcode opt bloom codegen biogpt xglm persimmon phi
    phi-msft starcoder2 whisper bart mbart pegasus marian m2m_100 blenderbot blenderbot-small gpt-neox
    fuyu ctrl
    openai-gpt moonshine stablelm_alpha nllb-moe plbart imagegpt bigbird_pegasus pegasus_x trocr git
    """
)
"""Feed-forward layers with biases where no field says so."""

QKV_BIAS = _names(
    """
    qwen2 qwen2_moe qwen2_vl qwen2_vl_text qwen2_5_vl qwen2_5_vl_text qwen2_5_omni_text qwen2_5_omni_talker
    glm4v glm4v_text
    """
)
"""Queries, keys and values carry biases, outputs do not, and no field says so."""

ATTENTION_BIAS = _names(
    """
    gpt2 gpt_neox gpt_bigcode opt bloom biogpt xglm persimmon phi phi-msft starcoder2 whisper bart mbart
    pegasus
    marian m2m_100 blenderbot blenderbot-small gpt-neox fuyu ctrl openai-gpt nllb-moe plbart imagegpt
    trocr git
    """
)
"""All four projections of attention with biases where no field says so."""

OUTPUT_GATE = _names(
    "muse_spark muse_spark_text muse_glimmer muse_glimmer_text qwen3_next afmoe beam qwen3_5 qwen3_5_moe "
    "qwen3_5_text qwen3_5_moe_text axk2 hy_v4 inkling2_text hrm_text dory alice_ai interns2_preview_text "
    "interns2_mobius_text"
)
"""A gate on the output of attention, as wide as the queries."""

WIDTH_OF_BOTH = _names("qwen molmo recurrent_gemma hf_olmo moshi kyutai_speech_to_text")
"""Gated layers whose given width is that of gate and up-projection together."""

UNGATED_ACTIVATIONS = frozenset({"relu2", "xielu", "squared_relu"})

ENCODER_ONLY = _names(
    """
    bert roberta xlm-roberta deberta deberta-v2 electra albert distilbert camembert mpnet modernbert
    nomic_bert vit clip siglip siglip2 dinov2 dinov3_vit resnet convnext swin swinv2 beit deit wav2vec2
    hubert wavlm layoutlm layoutlmv2 layoutlmv3 esm ernie funnel longformer big_bird rembert squeezebert
    yolos detr sam vitmae owlvit data2vec-text data2vec-vision segformer efficientnet timm_backbone
    regnet mobilenet_v2 xmod eurobert vit_mae clip_vision_model clip_text_model gte jina_bert xlm
    flaubert fnet nystromformer convbert
    """
)
"""They keep no KV cache: nothing is generated token by token."""

ENCODER_DECODER = _names(
    """
    t5 mt5 umt5 longt5 switch_transformers whisper bart mbart pegasus marian m2m_100 blenderbot
    blenderbot-small nllb-moe plbart mvp led moonshine speech_to_text
    """
)

NARROWED_IMAGES = frozenset({"nemotron_parse"})
"""Encoders of images whose patches are joined four in a row, with one summary of the image behind them."""

VIT_SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (12, 192, 768), "small": (12, 384, 1536), "base": (12, 768, 3072), "large": (24, 1024, 4096),
    "huge": (32, 1280, 5120), "giant": (40, 1408, 6144), "so400m": (27, 1152, 4304),
}  # fmt: skip
"""(layers, hidden size, width of the MLPs) that names of vision transformers stand for, as
``vit_huge_patch16_224`` and ``openai/clip-vit-large-patch14-336``."""

NO_KV_CACHE: dict[str, str] = {
    "xlnet": "it keeps hidden states of earlier segments (mem_len), or nothing, and no K and V",
    "reformer": "it keeps hidden states and buckets of hashes, and no K and V",
    "bark": "it is three models one after another, for semantic, coarse and fine codes",
    "musespark1x_text": "it drafts for Muse Spark (--draft): no engine serves it as a model of its own",
    "pi0": "it gives actions, with K and V of one prompt that is never continued",
}  # fmt: skip
"""Types whose files say nothing that bytes per token follow from, and why."""

FIXED_ENCODER = frozenset({"whisper"})
"""Audio is padded to a fixed length, so cross attention always covers every encoder position."""

FP32_STATE = frozenset({"nemotron_h", "nemotron_h_puzzle", "nemotron-h"})
"""Engines keep this family's recurrent state in fp32 when the configuration is silent (vLLM's default)."""

STATE_DTYPE_READ: dict[str, tuple[str, ...]] = {
    "mamba_ssm_cache_dtype": ("NemotronHFor", "NemotronHPuzzleFor", "NemotronH_Nano_VL_V2"),
    "mamba_ssm_dtype": ("Qwen3_5", "Qwen4Exp", "ColQwen3_5"),
}
"""Beginnings of the architectures for which vLLM reads a field; around the same decoder others leave the
recurrent state in the model's dtype. SGLang reads it for all, and takes fp32 where nothing is said."""

EXPANDED_MLA: dict[str, tuple[Literal["vllm", "sglang", "transformers"], ...]] = {"minicpm3": ("vllm",)}
"""Latent attention for which an engine has no latent cache and keeps every head."""

QK_NORM = _names(
    """
    qwen3 qwen3_moe qwen3_next gemma3 gemma3_text qwen3_5 qwen3_5_moe qwen3_5_text qwen3_5_moe_text
    qwen3_vl_text
    qwen3_vl_moe_text gemma3n gemma3n_text gemma4 gemma4_text hunyuan_v1_dense hunyuan_v1_moe exaone4
    exaone_moe
    afmoe cwm laguna lfm2 lfm2_moe step3p5 step3p7 zaya ernie5_moe molmo2_text
    """
)

QK_NORM_FULL = _names("olmo2 olmo3 olmoe flex_olmo olmo_hybrid minimax_m2")
"""Queries and keys are normalised over all heads at once."""

TWO_ATTENTIONS = ("longcat_flash",)
"""Beginnings of types of which a layer is two attention layers, the first with the experts beside its MLP."""

KIMI_DELTA = frozenset({"kimi_linear", "bailing_hybrid", "glm5_next", "glm5_next_text", "alice_ai"})
"""Linear layers are Kimi delta attention, even where their fields are named as the gated delta net's."""

LIGHTNING_ARCHITECTURES = ("BailingMoeV2_5", "BailingMoeV25", "BailingMoeLinear")
"""Beginnings of architectures whose linear layers are lightning attention, whatever the ``model_type`` says:
Ling 2.5 and 2.6 share theirs with the Kimi delta attention of Ling 3."""

LIGHTNING = frozenset(
    {"minimax", "minimax_text_01", "bailing_moe_linear", "bailing_moe_v2_5", "minimax_m1", "MiniMaxText01"}
)
"""Linear layers are lightning attention: one matrix per head and nothing else."""

GATED_TOWERS = frozenset(
    {"pixtral", "dots_ocr", "dots_vlm", "gemma4_vision", "lfm3_vl_vision", "kosmos_2_5_vision_model"}
)
"""Towers, or models with such, with gated layers whatever their activation is called."""

IMAGE_PREFIXES = frozenset({"bagel", "gemma3", "molmo2", "moondream3", "paligemma"})
"""Whole models' types whose tokens of one image attend to one another; Gemma 4's say it in a field."""

SINKS = ("gpt_oss",)
"""Whose every query head has a learned logit beside those of the keys, without a field that says so."""

WHOLE_TOWERS = frozenset({"gemma3n", "gemma4", "diffusion_gemma"})
"""Models whose towers vLLM 0.33 takes from transformers, so that every GPU holds them whole."""

WITHOUT_POOLING = frozenset({"minicpmv", "minicpmo"})
"""Models that cut the pooling head off their towers."""

TWO_TOWERS = frozenset({"video_llava"})
"""Models with one tower for images and another of the same shape for films."""

FALCON = _names("falcon RefinedWeb RefinedWebModel")
"""Falcon, also under its first names."""

WITHOUT_HEAD = frozenset({"higgs_audio_v2"})
"""Models that give no logits of words: what their files say of tied embeddings means nothing."""

SQUARE_MERGERS = (
    "qwen",
    "dots_ocr",
    "dots_vlm",
    "dots_vit",
    "dots3_note",
    "exaone4_5",
    "mimovl",
    "mimo_v2",
    "cohere_compass",
    "alpamayo",
)
"""Beginnings of types of towers, or of models, whose mergers are Qwen's."""

CLASS_TOWERS: dict[str, dict[str, int | str]] = {
    "molmo": {"model_type": "molmo_vision", "num_hidden_layers": 23, "hidden_size": 1024,
              "intermediate_size": 4096, "image_size": 336, "patch_size": 14},
    "moondream3": {"num_hidden_layers": 27, "hidden_size": 1152, "intermediate_size": 4304},
    "phi4mm": {"num_hidden_layers": 27, "hidden_size": 1152, "intermediate_size": 4304},
}  # fmt: skip
"""Towers that files say nothing of: the model's class has them."""

CONVOLUTIONAL_TOWERS: dict[str, tuple[int, int, int, int]] = {
    "mobilenetv5_300m_enc": (84, 2048, 3840, 294_126_912),
    "fastvit_mci3": (44, 3072, 3072, 122_714_208),
}
"""Blocks, width handed over, width between and parameters of towers of timm's (1.0), by architecture."""

TOWER_DEFAULTS: dict[str, dict[str, int | str]] = {
    "gemma3n_audio": {"mlp_ratio": 4},
    "idefics2": {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072},
    "aimv2": {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 2816, "hidden_act": "silu"},
}
"""What ``tower_defaults.json`` does not have: former names of towers, and what a class works out."""

STANDARD = _names(
    """
    phi4mm hunyuan bailing_moe bailing_moe_v2 step3_text step3_vl arctic grok-1 grok1 hf_olmo xverse plamo
    llama mistral mixtral gemma qwen2 qwen2_moe qwen3 qwen3_moe phi3 phi phimoe granite granitemoe
    granitemoeshared cohere starcoder2 stablelm olmo olmo2 olmoe smollm3 nemotron internlm2 internlm3
    deepseek deepseek_v41 deepseek_v41_text deepseek_v2 deepseek_v3 deepseek_v32
    step5 minicpm_sala plamo2 kimi_k2 kimi_k25 glm glm4 glm4_moe glm4_moe_lite
    glm_moe_dsa minicpm minicpm3 minimax_m2 minimax_m3 mistral4 ministral3 exaone ernie4_5 ernie4_5_moe
    dots1 hunyuan_v1_dense hunyuan_v1_moe seed_oss apertus arcee helium solar_open laguna mimo yi
    command-r deci nemotron-nas chatglm dbrx falcon gpt_bigcode jetmoe flex_olmo doge aria_text
    mllama_text_model mllama openelm step3p7 step3p5 longcat_flash_ngram ouro iquestloopcoder dory
    kimi_audio telechat telechat2 TeleFLM molmo mimo_v2 mimo_v2_omni
    """
)
"""Known to follow the common fields; unknown extra fields of these types do not change the cache."""
