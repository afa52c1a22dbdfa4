"""What the config.json of a base model says that llama.cpp's files depend on.

It is never read from where a stored label points to, only from where the caller says, or of the
Hub's cache on this machine.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from share_registry.errors import InvalidInputError, NotFoundError, RefusedError, ensure
from share_registry.exchange.targets.llama_cpp_classes import CONVERTED
from share_registry.format.canonical import parse_foreign, sha256
from share_registry.kinds import FilePath
from share_registry.names import Digest
from share_registry.outside.files import Kind, Outside

BASE_CONFIG: Final = "config.json"
_MAX_BYTES: Final = 1 << 20
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
# Classes of transformers -> what llama.cpp calls their architecture
ARCHITECTURES: Final[Mapping[str, str]] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "MixtralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2MoeForCausalLM": "qwen2moe",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3moe",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3",
    "Olmo2ForCausalLM": "olmo2",
    "Phi3ForCausalLM": "phi3",
    "GraniteForCausalLM": "granite",
    "SmolLM3ForCausalLM": "smollm3",
    "ApertusForCausalLM": "apertus",
    "ArceeForCausalLM": "arcee",
    "CohereForCausalLM": "command-r",
    "Ernie4_5ForCausalLM": "ernie4_5",
    "Exaone4ForCausalLM": "exaone4",
    "Glm4ForCausalLM": "glm4",
    "HunYuanDenseV1ForCausalLM": "hunyuan-dense",
    "Lfm2ForCausalLM": "lfm2",
    "NemotronForCausalLM": "nemotron",
    "Olmo3ForCausalLM": "olmo2",
    "OlmoForCausalLM": "olmo",
    "SeedOssForCausalLM": "seed_oss",
    "StableLmForCausalLM": "stablelm",
    "Starcoder2ForCausalLM": "starcoder2",
    "GPT2LMHeadModel": "gpt2",
    "BertForMaskedLM": "bert",
    "BertModel": "bert",
    "RobertaModel": "bert",
    "XLMRobertaModel": "bert",
}
# Those whose embeddings are tied where the file does not say
_TIED: Final = frozenset(
    {
        *("command-r", "ernie4_5", "gemma", "gemma2", "gemma3", "gpt2", "lfm2", "smollm3"),
        "starcoder2",
    }
)
# Those of which llama.cpp computes no output
_HEADLESS: Final = frozenset({"bert"})
# Those of which llama.cpp has the rows of q and k in another order than transformers
TURNED: Final = frozenset({"arcee", "granite", "llama", "olmo", "smollm3"})
# Classes with experts, which transformers 5 fuses: gate_up_proj has the rows of gate, then of up
MIXTURES: Final = frozenset({"MixtralForCausalLM", "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"})
# What GPT-2 calls its sizes
_SIZES: Final = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSizes:
    """The sizes of q and k.

    Attributes:
        heads: Number of heads of q.
        kv_heads: Number of heads of k and v.
        head_width: Rows of q for each head.
    """

    heads: int
    kv_heads: int
    head_width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseConfig:
    """The sizes of a base model.

    Attributes:
        name: Its class in transformers.
        architecture: What llama.cpp calls it.
        layers: Number of layers.
        width: Of the residual stream.
        turned: The sizes of q and k where llama.cpp has their rows in another order; else None.
        experts: Experts of a layer; None where it has none or the file does not say.
        vocabulary: Rows of the embedding; None where the file does not say.
        is_tied: Whether the output is the embedding.
        place: The file.
    """

    name: str
    architecture: str
    layers: int
    width: int
    turned: AttentionSizes | None
    experts: int | None
    vocabulary: int | None
    is_tied: bool
    place: str


def is_hub_id(label: str) -> bool:
    """Tell whether a label is that of a model on the Hub."""
    return _HUB_ID.fullmatch(label) is not None and ".." not in label


def read_base_config(path: FilePath | None, *, label: str, outside: Outside) -> BaseConfig:
    """Return what the config.json of a base model says.

    Args:
        path: The file, or the directory that it is in; None for what the Hub's cache has.
        label: Label of the base model.
        outside: The file system.

    Raises:
        NotFoundError: there is no such file.
        InvalidInputError: it is no config of a model.
        RefusedError: what llama.cpp calls its modules is not known here.
    """
    content, place = _content(path, label, outside)
    return parse_base_config(content, place=str(place))


def base_config_digest(path: FilePath | None, *, label: str, outside: Outside) -> Digest:
    """Return the sha256 of the file that `read_base_config` reads. Raises NotFoundError."""
    return sha256(_content(path, label, outside)[0])


def _content(path: FilePath | None, label: str, outside: Outside) -> tuple[bytes, Path]:
    place = _cached(label, outside) if path is None else outside.absolute(Path(path))
    if place is None:
        raise NotFoundError(
            f"the sizes of the base model {label[:120]!r} are not known, which the file for "
            "llama.cpp depends on.",
            hint=f"Give its {BASE_CONFIG}, or the directory that has it: base_config=....",
        )
    if outside.kind_behind(place) is Kind.DIRECTORY:
        place = place / BASE_CONFIG
    return outside.read(outside.resolved(place), limit=_MAX_BYTES), place


def parse_base_config(content: bytes, *, place: str) -> BaseConfig:
    """Return what a config.json says. Raises InvalidInputError, RefusedError."""
    config = parse_foreign(content, subject=place, limit=_MAX_BYTES)
    inner = config.get("text_config")
    if isinstance(inner, dict):
        config = config | {name: value for name, value in inner.items() if value is not None}
    config = {_SIZES.get(name, name): value for name, value in config.items()}
    name = _class_name(config, place)
    architecture = ARCHITECTURES[name]
    width = _size(config, "hidden_size", place)
    experts = ("num_local_experts", "num_experts") if name in MIXTURES else ()
    return BaseConfig(
        name=name,
        architecture=architecture,
        layers=_size(config, "num_hidden_layers", place),
        width=width,
        turned=_attention(config, width, place) if architecture in TURNED else None,
        experts=next(filter(None, (_optional(config, field, place) for field in experts)), None),
        vocabulary=_optional(config, "vocab_size", place),
        is_tied=architecture not in _HEADLESS
        and bool(config.get("tie_word_embeddings", architecture in _TIED)),
        place=place,
    )


def _class_name(config: Mapping[str, Any], place: str) -> str:
    """Return the class that a config names. Raises InvalidInputError, RefusedError."""
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    ensure(name, _absence("architectures", place))
    ensure(
        name in ARCHITECTURES,
        RefusedError(
            f"{place}: architecture {name[:60]!r}: what llama.cpp calls its modules is not known "
            f"here, expected one of {', '.join(ARCHITECTURES)}.",
            hint="Export it without a target, and convert it with llama.cpp's"
            " convert_lora_to_gguf.py."
            if name in CONVERTED
            else "Serve it with PEFT: llama.cpp's own converters do not know this class.",
        ),
    )
    return name


def _attention(config: Mapping[str, Any], width: int, place: str) -> AttentionSizes:
    heads = _size(config, "num_attention_heads", place)
    return AttentionSizes(
        heads=heads,
        kv_heads=_optional(config, "num_key_value_heads", place) or heads,
        head_width=_optional(config, "head_dim", place) or width // heads,
    )


def _cached(label: str, outside: Outside) -> Path | None:
    """Return the file of a model in the Hub's cache on this machine; nothing is downloaded."""
    if not is_hub_id(label):
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    path = try_to_load_from_cache(label, BASE_CONFIG)
    return outside.absolute(Path(path)) if isinstance(path, str) else None


def _size(config: Mapping[str, Any], name: str, place: str) -> int:
    size = _optional(config, name, place)
    ensure(size, _absence(name, place))
    return size or 0


def _absence(name: str, place: str) -> InvalidInputError:
    return InvalidInputError(
        f"{place} has no {name}, expected the config of a base model.",
        hint=f"Give the {BASE_CONFIG} that lies beside the base model's weights.",
    )


def _optional(config: Mapping[str, Any], name: str, place: str) -> int | None:
    size = config.get(name)
    ensure(
        size is None or (isinstance(size, int) and not isinstance(size, bool) and size > 0),
        InvalidInputError(
            f"{place}: {name} is {str(size)[:40]}, expected a whole number above 0.",
            hint=f"Give the {BASE_CONFIG} that lies beside the base model's weights.",
        ),
    )
    return size
