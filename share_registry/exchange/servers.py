"""What the common servers make of an adapter.

Their behaviour, seen in runs or read in their source, as pure functions: each rule is one server's
behaviour: refuses, reads wrongly, or ignores. PEFT 0.21 with transformers 5.23, vLLM 0.33, SGLang
0.5.23, LoRAX and TGI of 2026, llama.cpp b11549 with its convert_lora_to_gguf, OpenVINO GenAI
2026.4. To add a server, write its rules as one function and enter it in `SERVERS`.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_model import Family, family_of
from share_registry.exchange.config import DEFAULT_RANK, PREFIX, names_in
from share_registry.exchange.selection import module_scales
from share_registry.format.layout import Form, Layout
from share_registry.names import near_misses

# The values vLLM's max_lora_rank may have; the default is 16.
VLLM_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_VLLM_DEFAULT_RANK: Final = 16
_VLLM_FIELDS: Final = (
    "use_dora",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "trainable_token_indices",
    "velora_config",
    "monteclora_config",
)
_VLLM_KEYS: Final = re.compile(
    r".*(\.lora_[AB]\.weight|\.lora_embedding_[AB]|\.(embed_tokens|lm_head)\.base_layer\.weight"
    r"|(^|\.)(score|classifier)\.(weight|bias))"
)
_VLLM_FLAGS: Final = "--enable-mixed-moe-lora-format and is_3d_lora_weight in the load request"
# What vLLM does with fused experts, by the family of the base model.
_VLLM_FUSED: Final[Mapping[Family | None, str]] = {
    Family.MIXTRAL: "drops fused experts without a word",
    Family.QWEN3_MOE: f"refuses fused experts without {_VLLM_FLAGS}",
    None: "drops fused experts of Mixtral without a word, and refuses those of most other models"
    f" without {_VLLM_FLAGS}",
}
_NORMS: Final = re.compile(r".*(_layernorm|\.norm).*")
_LLAMA_KEYS: Final = re.compile(
    rf".*(\.lora_[AB]\.weight|\.lora_embedding_[AB]|\.base_layer\.weight.*)|{_NORMS.pattern}"
)
# SGLang fuses q, k, v and gate, up: modules, the one they need -> how that is said
SGLANG_FUSED: Final[Mapping[tuple[frozenset[str], str], str]] = {
    (frozenset({"k_proj", "v_proj"}), "q_proj"): "k_proj or v_proj without q_proj",
    (frozenset({"up_proj"}), "gate_proj"): "up_proj without gate_proj",
    # the one that it refuses when it loads the adapter
    (frozenset({"q_proj"}), "v_proj"): "q_proj without v_proj",
}
_LAYER: Final = re.compile(r"(.*?\.)(\d+)\.(.+)")
_NUMBERED: Final = re.compile(r"(^|.*\.)layers\.\d+\..*")
# What PEFT saves of a base model beside the factors of its embeddings.
COPY: Final = re.compile(r"(^|.*\.)(embed_tokens|lm_head)\.base_layer\.weight")
# One expert's module with a pair of its own: path of the experts, name.
EXPERT: Final = re.compile(r"(.*\.experts)\.\d+\.(\w+)")
# What one expert's modules are called in transformers 4: gate, up, down.
_EXPERT_NAMES: Final = (("w1", "w3", "w2"), ("gate_proj", "up_proj", "down_proj"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the rules look at.

    Attributes:
        config: adapter_config.json, parsed.
        layout: What the tensors are.
        attachments: Names of the other files of the directory.
        family: Family of the base model, None where it is not known.
    """

    config: Mapping[str, object]
    layout: Layout
    attachments: Collection[str]
    family: Family | None

    @property
    def missing_fields(self) -> str:
        """The fields without a default that the config lacks."""
        needed = ("r", "lora_alpha", "target_modules")
        return " or ".join(field for field in needed if field not in self.config)

    @property
    def has_partial_experts(self) -> bool:
        """Whether experts that have pairs of their own lack some of gate, up and down."""
        return any(not _is_complete(names) for names in _experts(self.layout).values())

    def has(self, form: Form) -> bool:
        """Tell whether some pair lies in a form."""
        return any(factor.form is form for factor in self.layout.factors)


def peft(subject: Subject) -> list[str]:
    """Return what PEFT itself reads wrongly, by how it is called."""
    experts = _experts(subject.layout).values()
    halves = any(len(names & set(pair[:2])) == 1 for names in experts for pair in _EXPERT_NAMES)
    rules = {
        "with transformers 5, use_rslora makes the experts' gate and up root 2 too large": (
            subject.config.get("use_rslora") and experts
        ),
        "with transformers 5, refuses experts that lack one of gate and up": halves,
        "with transformers 5, leaves out the experts of Qwen2-MoE without a word": (
            subject.family is Family.QWEN2_MOE and experts
        ),
        "load it with PeftModel.from_pretrained: transformers' load_adapter loses the magnitudes"
        " of DoRA": subject.config.get("use_dora"),
    }
    return [note for note, applies in rules.items() if applies]


def vllm(subject: Subject) -> list[str]:
    """Return what vLLM refuses or drops."""
    config, layout = subject.config, subject.layout
    notes = [f"refuses {field}" for field in _VLLM_FIELDS if config.get(field)]
    if config.get("bias", "none") != "none":
        notes.append(f"refuses bias={config['bias']!r}")
    heads = sorted({*names_in(config, "modules_to_save")} - {"classifier", "score"})
    if heads:
        notes.append(f"refuses modules_to_save {', '.join(heads)}")
    if subject.missing_fields:
        notes.append(f"refuses a config without {subject.missing_fields}")
    notes += _strange_keys(layout, _VLLM_KEYS)
    if subject.has(Form.EXPERTS):
        notes.append(_VLLM_FUSED.get(subject.family, _VLLM_FUSED[None]))
    if subject.has_partial_experts:
        notes.append("fails on experts that lack one of gate, up and down")
    if subject.has(Form.EMBEDDING):
        notes.append(
            "refuses embedding factors but for some models (Llama, Mistral, Qwen3, Granite; not"
            " Qwen2, Gemma, Phi-3)"
        )
    largest = max((shape.rank for shape in layout.modules()), default=0)
    slot = next((rank for rank in VLLM_RANKS if rank >= largest), None)
    if slot is None:
        notes.append(f"refuses rank {largest}, the largest is {VLLM_RANKS[-1]}")
    elif slot > _VLLM_DEFAULT_RANK:
        notes.append(f"start it with --max-lora-rank {slot} or more")
    return notes


def sglang(subject: Subject) -> list[str]:
    """Return what SGLang refuses, reads wrongly, or ends with."""
    config, layout = subject.config, subject.layout
    targets, unfused = config.get("target_modules"), _unfused(layout)
    *fatal, refused = SGLANG_FUSED.values()
    experts = sorted({*names_in(config, "target_modules")} & {*_EXPERT_NAMES[0]})
    rules = {
        "ignores use_rslora, so the scale is wrong": config.get("use_rslora"),
        "ignores alpha_pattern, so scales are wrong": config.get("alpha_pattern"),
        "reads activated LoRA as plain LoRA": config.get("alora_invocation_tokens"),
        "refuses target_modules given as a regular expression": (
            isinstance(targets, str) and targets != "all-linear"
        ),
        f"refuses target_modules {', '.join(experts)}": experts,
        "refuses use_dora": config.get("use_dora"),
        f"refuses {refused}": refused in unfused,
        f"fails on a config without {subject.missing_fields}": subject.missing_fields,
        "refuses added_tokens.json where its ids go beyond the base model's vocabulary": (
            "added_tokens.json" in subject.attachments
        ),
    }
    inner, lost = _split_passengers(layout)
    reasons = {
        "ranks other than r": any(
            shape.rank != config.get("r", DEFAULT_RANK) for shape in layout.modules()
        ),
        "fused experts": subject.has(Form.EXPERTS),
        **{reason: reason in unfused for reason in fatal},
        _count_tensors(inner, " of layers"): inner and not config.get("use_dora"),
    }
    notes = [note for note, applies in rules.items() if applies]
    if ends := [reason for reason, applies in reasons.items() if applies]:
        notes.append(f"the first request for it ends the server: {', '.join(ends)}")
    return [*notes, *_unnumbered(layout), *_ignored(lost), *_side_files(subject.attachments)]


def lorax(subject: Subject) -> list[str]:
    """Return what LoRAX and TGI read wrongly without an error."""
    config, layout = subject.config, subject.layout
    notes = [
        f"ignore {field}, so scales are wrong"
        for field in ("rank_pattern", "alpha_pattern")
        if config.get(field)
    ]
    if config.get("alora_invocation_tokens"):
        notes.append("read activated LoRA as plain LoRA")
    types = _types(layout)
    layers = {(prefix, layer) for modules in types.values() for prefix, layer, _ in modules}
    for name, modules in sorted(types.items()):
        prefixes = {prefix for prefix, _, _ in modules}
        if len(modules) < sum(prefix in prefixes for prefix, _ in layers):
            notes.append(f"drop {name}: not every adapted layer has it")
        if len({rank for _, _, rank in modules}) > 1:
            notes.append(f"cannot stack {name}: its ranks differ")
    if config.get("layers_to_transform") is not None:
        notes.append(
            "drop every module type that some layer of the model lacks (layers_to_transform)"
        )
    if subject.has(Form.EMBEDDING):
        notes.append("do not find embedding factors")
    return notes + _passengers(layout, "ignore")


def llama_cpp(subject: Subject) -> list[str]:
    """Return what llama.cpp, or its converter, refuses or reads wrongly."""
    config, layout = subject.config, subject.layout
    keys = [layout.tensors[position].key for position in layout.passengers]
    norms = [key for key in keys if _NORMS.fullmatch(key)]
    rules = {
        "ignores use_rslora, so scales are wrong": config.get("use_rslora"),
        "ignores alpha_pattern, so scales are wrong": config.get("alpha_pattern"),
        "reads lora_alpha 0 as no scaling": config.get("lora_alpha") == 0,
        "its converter fails on a config without lora_alpha": "lora_alpha" not in config,
        "its converter fails on fused experts": subject.has(Form.EXPERTS),
        "its converter fails on experts that lack one of gate, up and down": (
            subject.has_partial_experts
        ),
        "reads Conv1D modules (fan_in_fan_out) transposed: without a word where they are square,"
        " else it refuses them": config.get("fan_in_fan_out"),
        "does not serve embedding factors of models with tied embeddings": (
            subject.has(Form.EMBEDDING)
        ),
        f"ignores {_count_tensors(norms, ' of norms')}": norms,
    }
    return [
        *(note for note, applies in rules.items() if applies),
        *_strange_keys(layout, _LLAMA_KEYS),
    ]


def openvino(subject: Subject) -> list[str]:
    """Return what OpenVINO GenAI reads wrongly."""
    config, layout = subject.config, subject.layout
    keys = [layout.tensors[position].key for position in layout.passengers]
    magnitudes = [key for key in keys if key.endswith(".lora_magnitude_vector")]
    scales = {scale for scale in _scales(subject) if scale}
    rules = {
        "reads activated LoRA as plain LoRA": config.get("alora_invocation_tokens"),
        "reads the tensor file alone: without a word it leaves out the scale, "
        f"{_scale_text(scales)}": scales - {1.0},
        f"ignores {_count_tensors(magnitudes)}": magnitudes,
    }
    return [note for note, applies in rules.items() if applies]


def _scales(subject: Subject) -> list[float]:
    """Return the scale of every module; none where the config cannot be evaluated."""
    try:
        return module_scales(subject.config, subject.layout)
    except (InvalidInputError, RefusedError):
        return []


def _scale_text(scales: Collection[float]) -> str:
    if len(scales) == 1:
        return f"which has to be given as alpha={next(iter(scales)):g}"
    return "which differs from module to module"


def language_model_servers(subject: Subject) -> list[str]:
    """Return what no server of language models takes."""
    return ["take no convolutions"] if subject.has(Form.CONV) else []


# Returns what one server refuses, ignores or reads wrongly, as clauses without a full stop.
Rules = Callable[[Subject], list[str]]
# Server, as the notes name it -> its rules.
SERVERS: Final[Mapping[str, Rules]] = {
    "PEFT": peft,
    "servers of language models": language_model_servers,
    "vLLM": vllm,
    "SGLang": sglang,
    "LoRAX, TGI": lorax,
    "llama.cpp": llama_cpp,
    "OpenVINO GenAI": openvino,
}


# What may be served to, and its title among the servers, with the release whose rules these are
TARGETS: Final[Mapping[str, tuple[str, str]]] = {
    "peft": ("PEFT", "0.21"),
    "vllm": ("vLLM", "0.33"),
    "sglang": ("SGLang", "0.5.23"),
    "lorax": ("LoRAX, TGI", "of 2026"),
    "llama.cpp": ("llama.cpp", "b11549"),
    "openvino": ("OpenVINO GenAI", "2026.4"),
}
# How notes begin of what a server does not load or serve, and of how it has to be started or
# asked; all others say what it reads wrongly or leaves out, without a word of its own
_REFUSALS: Final = re.compile(
    r"(with transformers 5, )?refuses? |fails on |take no |its converter fails |cannot stack "
    r"|does not serve |do not find |the first request for it ends the server"
)
_SETTINGS: Final = re.compile(r"(start|load) it with ")


class ServerOutcome(StrEnum):
    """What a server makes of an adapter: from nothing to say to what is wrong without a word."""

    SETTING = "needs a setting"
    REFUSED = "refused"
    MISREAD = "misread"


def notes_by_target(
    adapter: Adapter, *, base_model: str = ""
) -> Iterator[tuple[str, ServerOutcome, str]]:
    """Yield what each target refuses, misreads or needs: target, which of these, and how.

    Arguments as in `lint`.
    """
    subject = _subject(adapter, base_model)
    for target in TARGETS:
        for note in _rules_of(target)(subject):
            yield target, _outcome(note), note


def _rules_of(target: str) -> Rules:
    """Return the rules of one target, with those of all servers of language models."""
    own = SERVERS[TARGETS[target][0]]
    if target == "peft":
        return own
    return lambda subject: [*language_model_servers(subject), *own(subject)]


def _outcome(note: str) -> ServerOutcome:
    if _REFUSALS.match(note):
        return ServerOutcome.REFUSED
    return ServerOutcome.SETTING if _SETTINGS.match(note) else ServerOutcome.MISREAD


def lint(adapter: Adapter, *, base_model: str = "", target: str | None = None) -> tuple[str, ...]:
    """Return what to know before serving, one sentence each, the server first.

    Args:
        adapter: The adapter.
        base_model: Label of the base model where the config names none, or a path.
        target: The one server that is asked; None for all.
    """
    subject = _subject(adapter, base_model)
    asked = SERVERS if target is None else {TARGETS[target][0]: _rules_of(target)}
    return tuple(f"{server}: {note}." for server, rules in asked.items() for note in rules(subject))


def check_target(name: str) -> str:
    """Return the name of a target. Raises InvalidInputError."""
    ensure(
        name in TARGETS,
        InvalidInputError(
            f"target {name!r} is not one of {', '.join(TARGETS)}.",
            hint=near_misses(name, [*TARGETS]),
        ),
    )
    return name


def _subject(adapter: Adapter, base_model: str) -> Subject:
    return Subject(
        config=adapter.config,
        layout=adapter.layout,
        attachments=adapter.attachments.keys(),
        family=family_of(adapter.config, base_model),
    )


def _experts(layout: Layout) -> dict[str, set[str]]:
    """Return the modules of experts with pairs of their own: path of the experts -> names."""
    experts: dict[str, set[str]] = defaultdict(set)
    for factor in layout.factors:
        if match := EXPERT.fullmatch(factor.module):
            experts[match[1]].add(match[2])
    return experts


def _is_complete(names: Collection[str]) -> bool:
    return any(set(expected) <= set(names) for expected in _EXPERT_NAMES)


def _strange_keys(layout: Layout, expected: re.Pattern[str]) -> list[str]:
    strange = [tensor.key for tensor in layout.tensors if not expected.fullmatch(tensor.key)]
    return [f"refuses {_count_tensors(strange)}"] if strange else []


def _passengers(layout: Layout, verb: str) -> list[str]:
    keys = [layout.tensors[position].key for position in layout.passengers]
    return [f"{verb} {_count_tensors(keys, ' outside the factor pairs')}"] if keys else []


def _split_passengers(layout: Layout) -> tuple[list[str], list[str]]:
    """Return the keys of tensors that SGLang does not place, and of those that it ignores."""
    keys = [layout.tensors[position].key for position in layout.passengers]
    keys = [key for key in keys if not COPY.fullmatch(key)]
    inner = [key for key in keys if _NUMBERED.fullmatch(key) and not key.endswith(".bias")]
    return inner, [key for key in keys if key not in inner]


def _ignored(keys: Sequence[str]) -> list[str]:
    return [f"ignores {_count_tensors(keys, ' outside the factor pairs')}"] if keys else []


def _unnumbered(layout: Layout) -> list[str]:
    """Return what SGLang makes of pairs outside numbered layers; of embeddings it reads them."""
    modules = [
        factor.module
        for factor in layout.factors
        if not _NUMBERED.fullmatch(factor.module)
        and factor.module.rpartition(".")[2] not in ("embed_tokens", "lm_head")
    ]
    if not modules:
        return []
    return [
        f"drops factor pairs outside layers.N ({len(modules)}, such as {modules[0]}) without a word"
    ]


def _side_files(attachments: Collection[str]) -> list[str]:
    files = sorted(name for name in attachments if name.endswith(".safetensors"))
    return [f"reads {', '.join(files)} as LoRA weights as well"] if files else []


def _count_tensors(keys: Sequence[str], where: str = "") -> str:
    if len(keys) == 1:
        return f"1 tensor{where}, {keys[0]}"
    return f"{len(keys)} tensors{where}, such as {keys[0]}" if keys else ""


def _types(layout: Layout) -> dict[str, list[tuple[str, int, int]]]:
    """Return the modules in numbered layers: type -> (path before the number, number, rank)."""
    types: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for factor in layout.factors:
        if match := _LAYER.fullmatch(factor.module.removeprefix(PREFIX)):
            rank = layout.tensors[factor.a].shape[0] // factor.experts
            types[match[3]].append((match[1], int(match[2]), rank))
    return types


def _unfused(layout: Layout) -> set[str]:
    """Return what SGLang, which fuses modules, does not find together."""
    owners: dict[str, set[str]] = defaultdict(set)
    for factor in layout.factors:
        owner, _, name = factor.module.rpartition(".")
        owners[owner].add(name)
    return {
        reason
        for (fused, needed), reason in SGLANG_FUSED.items()
        if any(names & fused and needed not in names for names in owners.values())
    }
