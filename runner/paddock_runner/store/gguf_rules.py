"""Tables of what the pinned llama.cpp asserts for single architectures, as data of `gguf_parameters` and
`gguf_architectures`.

A model outside these rules ends the engine by SIGABRT or SIGFPE, at load or when its graph is built, instead of an
error. Whoever updates llama.cpp looks through them; `tests/store/test_gguf_llama.py` tries the common ones on the real
library.
"""

from __future__ import annotations

from dataclasses import dataclass

_U31 = (1 << 31) - 1

# Architectures without attention, or with head counts that may be absent or zero.
RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
HEADLESS = RECURRENT | {"wavtokenizer-dec"}

ROPE_SCALINGS = frozenset({"none", "linear", "yarn", "longrope"})
EPSILONS = (
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.group_norm_epsilon",
)
FREQUENCIES = ("rope.freq_base", "rope.freq_base_swa")

# The graph asserts that keys and values have one length …
_EQUAL_HEADS_NAMES = """
    afmoe apertus arcee arctic baichuan bailingmoe2 bert bitnet bloom chameleon chatglm codeshell cogvlm cohere2
    cohere2moe command-r dbrx deci deepseek dflash dots1 dream eagle3 ernie4_5 ernie4_5-moe eurobert exaone falcon
    glm4 glm4moe gpt2 gptneox granite granite_swa granitehybrid granitemoe graniteswitch grok grovemoe hunyuan-dense
    hunyuan-moe hunyuan_vl hy_v3 internlm2 jais jais2 jina-bert-v2 jina-bert-v3 laguna lfm2 lfm2moe llada llada-moe
    llama llama-embed llama4 maincoder mellum minicpm minimax-01 minimax-m2 minimax-m3 mistral3 modern-bert mpt
    muse-glimmer nanbeige nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert nomic-bert-moe olmo olmo2 olmoe
    openelm orion paddleocr pangu-embedded phi2 phi3 phimoe plamo pockettts qwen qwen2 qwen2moe qwen2vl qwen3 qwen35
    qwen35moe qwen3moe qwen3next qwen3tts qwen3vl qwen3vlmoe qwen4exp refact rnd1 seed_oss smallthinker smollm3
    spark2_5 stablelm starcoder starcoder2 t5 t5encoder xverse
"""
EQUAL_HEADS = frozenset(_EQUAL_HEADS_NAMES.split())
# … and that all of a head is rotated.
_FULL_ROTATION_NAMES = """
    apertus arcee arctic baichuan chameleon codeshell cogvlm cohere2moe dbrx deci deepseek dots1 dream ernie4_5
    ernie4_5-moe exaone exaone-moe exaone4 falcon granite granite_swa granitemoe graniteswitch grok grovemoe
    hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 internlm2 jais2 llada llada-moe llama llama-embed llama4 maincoder
    mellum minicpm minimax-01 minimax-m2 mistral3 nemotron olmo olmo2 olmoe orion paddleocr pangu-embedded plamo
    pockettts qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3tts qwen3vl qwen3vlmoe rnd1 seed_oss smallthinker smollm3
    starcoder2 talkie xverse
"""
FULL_ROTATION = frozenset(_FULL_ROTATION_NAMES.split())
# The rotation is divided by the sum of its sections.
SECTIONED = frozenset({"qwen2vl", "paddleocr", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen4exp", "qwen3tts"})
MAYBE_SECTIONED = frozenset({"glm4", "glm4moe", "hunyuan_vl", "bailingmoe3", "dflash"})

# Layers with attention and layers with a state: the latter have no key heads, or are all but each n-th.
_MIXED_BY_HEADS_NAMES = """
    jamba plamo2 granitehybrid lfm2 lfm2moe nemotron_h nemotron_h_moe kimi-linear kimi-k3 bailingmoe3 glm5-next
"""
MIXED_BY_HEADS = frozenset(_MIXED_BY_HEADS_NAMES.split())
MIXED_BY_INTERVAL = frozenset({"minimax-01", "qwen3next", "qwen35", "qwen35moe", "qwen4exp"})

ONE_EXPERT_IS_NONE = frozenset({"hunyuan_vl", "hunyuan-dense"})
EXPERTS_PER_LAYER = frozenset({"nemotron_h", "nemotron_h_moe"})
TWICE_WIDE = frozenset({"jamba", "granitehybrid"})


@dataclass(frozen=True, slots=True)
class Range:
    """The whole number `name` of these architectures (none listed: of all) must lie within low…high."""

    name: str
    low: int
    high: int = _U31
    architectures: frozenset[str] = frozenset()
    required: bool = False


_GROUPED_SSM = frozenset({"mamba2", "granitehybrid", "falcon-h1", "nemotron_h", "nemotron_h_moe"})
_DELTA_NET = frozenset({"qwen3next", "qwen35", "qwen35moe"})
_TWO_SHIFTS = frozenset({"rwkv6", "rwkv7"})
_ONE_SHIFT = frozenset({"rwkv6qwen2", "arwkv7"})
_RWKV = _TWO_SHIFTS | _ONE_SHIFT
_ONLY_EXPERTS = frozenset({"bailingmoe2", "glm4moe", "grovemoe", "llada-moe", "smallthinker", "lfm2moe"})

RANGES = (
    Range("attention.sliding_window", 0),
    Range("full_attention_interval", 1),
    Range("ssm.group_count", 1, architectures=_GROUPED_SSM | _DELTA_NET),
    Range("ssm.time_step_rank", 1, architectures=_GROUPED_SSM | _DELTA_NET),
    Range("wkv.head_size", 1, architectures=_RWKV),
    Range("token_shift_count", 2, 2, _TWO_SHIFTS),
    Range("token_shift_count", 1, 1, _ONE_SHIFT, required=True),
    Range("expert_count", 1, 1024, _ONLY_EXPERTS, required=True),
    Range("experts_per_group", 1, architectures=frozenset({"grovemoe"})),
    Range("interleave_moe_layer_step", 1, architectures=frozenset({"ernie4_5-moe"}), required=True),
    Range("attention.temperature_length", 1, architectures=frozenset({"deepseek2", "deepseek2-ocr", "mistral4"})),
    Range("attention.indexer.block_size", 1, architectures=frozenset({"minimax-m3"})),
    Range("attention.indexer.kpool", 2, architectures=frozenset({"glm5-next"})),
    Range("hyper_connection.count", 4, 4, frozenset({"glm5-next", "deepseek4"})),
    Range("attention.output_group_count", 1, architectures=frozenset({"deepseek4", "dflash"})),
    Range("conv_group_size", 1, architectures=frozenset({"dflash"})),
    Range("hrm.layers_per_stack", 1, 512, frozenset({"hrm_text"})),
    Range("hrm.h_cycles", 1, 512, frozenset({"hrm_text"})),
    Range("hrm.l_cycles", 1, 512, frozenset({"hrm_text"})),
    Range("num_loops", 1, 512, frozenset({"nanbeige"})),
    Range("shortconv.l_cache", 2, 1024, frozenset({"lfm2", "lfm2moe"})),
)

# (architectures, dividend, divisor): the quotient is a size of the graph.
DIVISIONS = (
    (_GROUPED_SSM, "ssm.inner_size", "ssm.time_step_rank"),
    (_GROUPED_SSM, "ssm.inner_size", "ssm.group_count"),
    (_DELTA_NET, "ssm.time_step_rank", "ssm.group_count"),
    (_DELTA_NET, "ssm.inner_size", "ssm.time_step_rank"),
    (_RWKV, "embedding_length", "wkv.head_size"),
    (frozenset({"glm5-next"}), "attention.indexer.top_k", "attention.indexer.kpool"),
)
