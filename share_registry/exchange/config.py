"""Read adapter_config.json: what it says, and what makes an adapter unsafe to take apart.

The bytes are kept as they are; this module only reads them. Fields are those of PEFT 0.21. What
they mean for the factors of a file is worked out in `selection`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from share_registry.errors import IntegrityError, InvalidInputError, RefusedError, ensure
from share_registry.format.canonical import parse_foreign

CONFIG_FILE: Final = "adapter_config.json"
# What PEFT puts before every module path in its keys.
PREFIX: Final = "base_model.model."
# What `parse_config` accepts, so what a commit accepts and every reader of a stored config.
MAX_CONFIG_BYTES: Final = 1 << 20
DEFAULT_RANK: Final = 8
DEFAULT_ALPHA: Final = 8

_MAX_PATTERNS: Final = 65_536
_MAX_PATTERN_LENGTH: Final = 512
# Of target_modules and exclude_modules, which tools write long.
_MAX_EXPRESSION_LENGTH: Final = 16_384
_MAX_REPETITIONS: Final = 6
# What "all-linear" leaves out, by their usual names.
_HEADS: Final = frozenset({"lm_head"})
_CLASSIFIERS: Final = frozenset({"score", "classifier"})
_ANY_LAYER: Final = re.compile(r".*?\.[^.]*\.(?P<index>\d+)\.")
_SAFE_INITS: Final = {"gaussian", "eva", "orthogonal", "mica"}
_BASE_CHANGING_INITS: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")
# fmt: off
_FIELDS: Final = frozenset({
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping",
    "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "kasa_config",
    "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
    "lora_bias", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core",
    "modules_to_save", "monteclora_config", "peft_type", "peft_version", "qalora_group_size", "r",
    "rank_pattern", "revision", "runtime_config", "target_modules", "target_parameters",
    "task_type", "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora", "use_rslora",
    "velora_config",
})
# fmt: on
_REFUSED_FIELDS: Final = {
    "kasa_config": (
        "KaSA takes the smallest components out of the base weight"
        " and puts a diagonal between A and B"
    ),
    "use_bdlora": "BD-LoRA factors are block-diagonal and do not multiply to dW",
    "use_qalora": "QALoRA's A acts on pooled inputs, so B @ A is not dW",
    "arrow_config": "Arrow routes between several adapters; one of them alone is not the function",
    "megatron_config": "Megatron adapters are not saved reliably",
}
_CONVERT: Final = (
    "Convert it to plain LoRA first"
    " (PEFT: save_pretrained with path_initial_model_for_weight_conversion),"
    " then commit the converted adapter."
)


# One member of rank_pattern or alpha_pattern: an expression over module paths, its value.
Pattern = tuple[re.Pattern[str], float]
# Module paths: their ends, or an expression for the whole of them.
Paths = frozenset[str] | re.Pattern[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What a config says of the modules that get factors.

    Attributes:
        modules: Those targeted; None where that cannot be told from the config alone.
        is_all_linear: Whether every linear module is, but the output head.
        heads: What an output head is called.
        excluded: Those left out.
        saved: Expressions for the modules trained whole, which get no factors.
        layers: Numbers of the layers targeted; None for all.
        layer_patterns: Expressions that find the number of a layer; the first that matches counts.
        unread: Fields with an expression too costly to evaluate.
    """

    modules: Paths | None
    is_all_linear: bool
    heads: frozenset[str]
    excluded: Paths
    saved: tuple[re.Pattern[str], ...]
    layers: frozenset[int] | None
    layer_patterns: tuple[re.Pattern[str], ...]
    unread: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a config says of scales, and of where they apply.

    s = alpha / r, or alpha / sqrt(r) with rsLoRA, both overridden per module by the first
    pattern that matches, in file order.
    """

    rank: int
    alpha: float
    rslora: bool
    ranks: tuple[Pattern, ...]
    alphas: tuple[Pattern, ...]
    parameters: tuple[str, ...]
    tied: bool
    dora: bool
    targets: Targets


def parse_config(content: bytes, *, name: str = CONFIG_FILE) -> dict[str, object]:
    """Parse the bytes of an adapter_config.json. Raises InvalidInputError."""
    try:
        return parse_foreign(content, subject=name, limit=MAX_CONFIG_BYTES)
    except IntegrityError as error:
        raise InvalidInputError(
            error.message, hint="Save the adapter again with PEFT's save_pretrained."
        ) from error


def names_in(config: Mapping[str, object], field: str) -> list[str]:
    """Return the names that a field of a config lists, none where it is no list."""
    names = config.get(field)
    return [str(name) for name in names] if isinstance(names, list) else []


def copy_json(value: Any) -> Any:
    """Return a copy of a JSON value that shares nothing mutable with it."""
    if isinstance(value, dict):
        return {name: copy_json(item) for name, item in value.items()}
    return [copy_json(item) for item in value] if isinstance(value, list) else value


def settings_of(config: Mapping[str, object]) -> Settings:
    """Read the fields that scales and selection depend on.

    Raises InvalidInputError for a wrong type.
    """
    return Settings(
        rank=_rank("r", config.get("r", DEFAULT_RANK)),
        alpha=_number("lora_alpha", config.get("lora_alpha", DEFAULT_ALPHA)),
        rslora=_flag("use_rslora", config.get("use_rslora")),
        ranks=_patterns("rank_pattern", config.get("rank_pattern"), rank=True),
        alphas=_patterns("alpha_pattern", config.get("alpha_pattern"), rank=False),
        parameters=_texts("target_parameters", config.get("target_parameters")),
        tied=_flag("ensure_weight_tying", config.get("ensure_weight_tying")),
        dora=_flag("use_dora", config.get("use_dora")),
        targets=_targets(config),
    )


def refuse_unsafe(config: Mapping[str, object]) -> None:
    """Refuse adapters whose factors do not mean dW = s B A on the plain base model.

    Raises:
        InvalidInputError: not a PEFT config at all.
        RefusedError: a type, option or initialization that cannot be taken apart safely.
    """
    peft_type = config.get("peft_type")
    ensure(
        isinstance(peft_type, str),
        InvalidInputError(
            f"{CONFIG_FILE}: peft_type is {peft_type!r}, expected 'LORA'.",
            hint="Give a directory that PEFT's save_pretrained wrote.",
        ),
    )
    ensure(
        peft_type == "LORA",
        RefusedError(
            f"{CONFIG_FILE}: peft_type is {peft_type!r}, expected 'LORA'.",
            hint="Load it (PeftModel.from_pretrained) and commit the model:"
            " then just its coefficients are stored."
            if peft_type == "SHARE"
            else "Convert it to LoRA with PEFT (save_as_lora), then commit that.",
        ),
    )
    for field, reason in _REFUSED_FIELDS.items():
        ensure(
            not config.get(field),
            RefusedError(f"{CONFIG_FILE}: {field} is set, expected none: {reason}.", hint=_CONVERT),
        )
    init, mapping = config.get("init_lora_weights", True), config.get("auto_mapping")
    name = init.lower() if isinstance(init, str) else ""
    ensure(
        not name.startswith(_BASE_CHANGING_INITS),
        RefusedError(
            f"{CONFIG_FILE}: init_lora_weights is {init!r}, expected an initialization that leaves"
            " the base model alone: the factors are meant for rewritten base weights.",
            hint=_CONVERT,
        ),
    )
    ensure(
        (not name or name in _SAFE_INITS) and isinstance(init, bool | str | None),
        RefusedError(
            f"{CONFIG_FILE}: init_lora_weights is {init!r},"
            f" expected true, false, {', '.join(sorted(_SAFE_INITS))}.",
            hint="Whether an unknown initialization changes the base model cannot be known:"
            " convert the adapter to plain LoRA first.",
        ),
    )
    # PEFT imports an unknown library when it loads the adapter
    library = mapping.get("parent_library") if isinstance(mapping, dict) else mapping
    ensure(
        library is None
        or (isinstance(library, str) and library.partition(".")[0] == "transformers"),
        RefusedError(
            f"{CONFIG_FILE}: auto_mapping.parent_library is {library!r}, expected a module of"
            " transformers: PEFT imports it when it loads the adapter.",
            hint="Set task_type before saving, or auto_mapping to null in the config.",
        ),
    )


def config_remarks(config: Mapping[str, object]) -> list[str]:
    """Return what is worth knowing about a config that is accepted."""
    unknown = sorted(name for name, value in config.items() if value and name not in _FIELDS)
    listed = f"{', '.join(unknown[:8])}{' ...' if len(unknown) > 8 else ''}"
    remarks = {
        f"{CONFIG_FILE} has no r: PEFT's default {DEFAULT_RANK} was taken.": "r" not in config,
        f"{CONFIG_FILE} has no lora_alpha: PEFT's default {DEFAULT_ALPHA} was taken.": (
            "lora_alpha" not in config
        ),
        "lora_alpha is 0: the adapter changes nothing (llama.cpp would read it as unscaled).": (
            config.get("lora_alpha") == 0
        ),
        "Activated LoRA: it acts only after its invocation tokens, and must not be merged.": (
            config.get("alora_invocation_tokens")
        ),
        "layer_replication: layer numbers are those of the expanded model.": (
            config.get("layer_replication")
        ),
        "runtime_config is kept in the config bytes; PEFT ignores it.": "runtime_config" in config,
        f"unknown config fields, kept verbatim: {listed}.": unknown,
    }
    return [remark for remark, applies in remarks.items() if applies]


def _targets(config: Mapping[str, object]) -> Targets:
    modules, excluded = config.get("target_modules"), config.get("exclude_modules")
    is_all_linear = isinstance(modules, str) and modules.lower() == "all-linear"
    paths: dict[str, Paths | None] = {
        field: frozenset() if value is None else _paths(field, value)
        for field, value in (("target_modules", modules), ("exclude_modules", excluded))
    }
    layers = config.get("layers_to_transform")
    numbers = [layers] if type(layers) is int else layers or []
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise _wrong("layers_to_transform", repr(layers), "a number or a list of numbers")
    is_open = is_all_linear or (modules is None and config.get("target_parameters") is None)
    return Targets(
        modules=None if is_open else paths["target_modules"],
        is_all_linear=is_all_linear,
        heads=_HEADS | (_CLASSIFIERS if config.get("task_type") == "SEQ_CLS" else frozenset()),
        excluded=paths["exclude_modules"] or frozenset(),
        saved=tuple(
            _compile("modules_to_save", rf"(^|.*\.){name}($|\..*)")
            or re.compile(rf"(^|.*\.){re.escape(name)}($|\..*)")
            for name in _texts("modules_to_save", config.get("modules_to_save"))
        ),
        layers=frozenset(numbers) if numbers else None,
        layer_patterns=_layer_patterns(config.get("layers_pattern")),
        unread=tuple(field for field, value in paths.items() if value is None),
    )


def _layer_patterns(value: object) -> tuple[re.Pattern[str], ...]:
    names = _texts("layers_pattern", [value] if isinstance(value, str) and value else value or None)
    patterns = [
        _compile("layers_pattern", rf"(?:^|.*?\.){name}\.(?P<index>\d+)\.") for name in names
    ]
    return tuple(pattern for pattern in patterns if pattern is not None) or (_ANY_LAYER,)


def _paths(field: str, value: object) -> Paths | None:
    """Return what a field says of module paths, None where that is too costly to find out."""
    return _compile(field, value) if isinstance(value, str) else frozenset(_texts(field, value))


def _compile(field: str, text: str) -> re.Pattern[str] | None:
    """Compile an expression; None for one that could run for ever: the config may be anybody's."""
    repetitions = len(re.findall(r"(?<!\\)[*+]|\{\d*,\}", text))
    is_slow = re.search(r"\)[*+{]", text) is not None or repetitions > _MAX_REPETITIONS
    if is_slow or len(text) > _MAX_EXPRESSION_LENGTH:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise _wrong(field, f"{text[:80]!r}: {error}", "a regular expression or a list") from error


def _patterns(field: str, value: object, *, rank: bool) -> tuple[Pattern, ...]:
    value = {} if value is None else value
    if not isinstance(value, dict) or len(value) > _MAX_PATTERNS:
        raise _wrong(field, type(value).__name__, f"an object of at most {_MAX_PATTERNS} members")
    return tuple(
        (_regex(field, text), (_rank if rank else _number)(f"{field}[{text!r}]", number))
        for text, number in value.items()
    )


def _regex(field: str, text: str) -> re.Pattern[str]:
    """Compile an expression as PEFT does.

    What could run for ever (repeated groups, many open repetitions) is refused, as the config
    may be anybody's.
    """
    ensure(
        len(text) <= _MAX_PATTERN_LENGTH
        and not re.search(r"\)[*+{]", text)
        and len(re.findall(r"(?<!\\)[*+]|\{\d*,\}", text)) <= 3,
        RefusedError(
            f"{CONFIG_FILE}: {field} has the expression {text[:80]!r},"
            " expected one without repeated groups.",
            hint="Write the module paths out.",
        ),
    )
    try:
        return re.compile(rf"(.*\.)?({text})$")
    except re.error as error:
        raise _wrong(field, f"{text[:80]!r}: {error}", "regular expressions as members") from error


def _rank(field: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= 1 << 20:
        raise _wrong(field, repr(value), "a positive integer")
    return value


def _number(field: str, value: object) -> float:
    if type(value) not in (int, float):
        raise _wrong(field, repr(value), "a number")
    return float(str(value))


def _flag(field: str, value: object) -> bool:
    ensure(isinstance(value, bool | None), _wrong(field, repr(value), "true or false"))
    return bool(value)


def _texts(field: str, value: object) -> tuple[str, ...]:
    value = [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _wrong(field, repr(value), "a list of names")
    return tuple(value)


def _wrong(field: str, value: str, expected: str) -> InvalidInputError:
    return InvalidInputError(
        f"{CONFIG_FILE}: {field} is {value[:200]}, expected {expected}.",
        hint="Correct the config, or save the adapter again with PEFT's save_pretrained.",
    )
