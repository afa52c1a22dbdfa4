"""Read adapter_config.json: what it says.

The bytes are kept as they are; this module only reads them. Fields are those of PEFT 0.21. What
they mean for the factors of a file is worked out in `selection`.
"""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from share_registry.errors import IntegrityError, InvalidInputError, RefusedError, ensure
from share_registry.exchange.expressions import (
    Ending,
    Expression,
    LayerNumber,
    UnboundedExpressionError,
    Work,
    compile_ending,
    compile_expression,
    compile_layer,
)
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
# What "all-linear" leaves out, by their usual names.
_HEADS: Final = frozenset({"lm_head"})
CLASSIFIERS: Final = frozenset({"score", "classifier"})
_ANY_LAYER: Final = re.compile(r".*?\.[^.]*\.(?P<index>\d+)\.")

# One member of rank_pattern or alpha_pattern: an expression over module paths, its value.
Pattern = tuple[Ending, float]
# Module paths: their ends, or an expression for the whole of them.
Paths = frozenset[str] | Expression


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
        unread: Fields that are not read: with an expression that takes unbounded work to match, or
            in a form that PEFT cannot read either, as old versions may have them.
    """

    modules: Paths | None
    is_all_linear: bool
    heads: frozenset[str]
    excluded: Paths
    saved: tuple[Expression, ...]
    layers: frozenset[int] | None
    layer_patterns: tuple[LayerNumber, ...]
    unread: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a config says of scales, and of where they apply.

    s = alpha / r, or alpha / sqrt(r) with rsLoRA, both overridden per module by the first
    pattern that matches, in file order. `work` is what all expressions may take together.
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
    on_transformers: bool
    work: Work


def parse_config(content: bytes, *, name: str = CONFIG_FILE) -> dict[str, object]:
    """Parse the bytes of an adapter_config.json. Raises InvalidInputError."""
    try:
        return parse_foreign(content, subject=name, limit=MAX_CONFIG_BYTES)
    except IntegrityError as error:
        raise InvalidInputError(
            error.message, hint="Save the adapter again with PEFT's save_pretrained."
        ) from error


def relabel(content: bytes, base_model: str) -> bytes:
    """Return a config that names another base model; everything else is as it was, in its order.

    Raises InvalidInputError where it cannot be parsed.
    """
    config = parse_config(content) | {"base_model_name_or_path": base_model}
    return f"{json.dumps(config, indent=2, ensure_ascii=False)}\n".encode()


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

    What says which modules are targeted counts as unread where it has a wrong form: a version that
    is stored has to stay usable. Adapters that come in are checked by `check_targets`.

    Raises:
        InvalidInputError: a wrong type of another field.
        RefusedError: expressions that take too much work.
    """
    work = Work()
    return Settings(
        rank=_rank("r", config.get("r", DEFAULT_RANK)),
        alpha=_number("lora_alpha", config.get("lora_alpha", DEFAULT_ALPHA)),
        rslora=_flag("use_rslora", config.get("use_rslora")),
        ranks=_patterns("rank_pattern", config.get("rank_pattern"), work, rank=True),
        alphas=_patterns("alpha_pattern", config.get("alpha_pattern"), work, rank=False),
        parameters=_texts("target_parameters", config.get("target_parameters")),
        tied=_flag("ensure_weight_tying", config.get("ensure_weight_tying")),
        dora=_flag("use_dora", config.get("use_dora")),
        targets=_targets(config, work),
        on_transformers=bool(is_on_transformers(config)),
        work=work,
    )


def is_on_transformers(config: Mapping[str, object]) -> bool | None:
    """Tell whether a base model is one of transformers; None where the config does not say.

    Without a task PEFT writes what class it wrapped. Two tasks need a model of transformers.
    """
    mapping = config.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if isinstance(library, str):
        return library.partition(".")[0] == "transformers"
    return True if config.get("task_type") in ("CAUSAL_LM", "SEQ_2_SEQ_LM") else None


def check_targets(config: Mapping[str, object]) -> None:
    """Check the form of the fields that say which modules are targeted.

    Raises InvalidInputError, and RefusedError for expressions that take too much work.
    """
    work = Work()
    for field, read in _READERS.items():
        read(field, config.get(field), work)


def _targets(config: Mapping[str, object], work: Work) -> Targets:
    values: dict[str, Any] = {}
    for field, read in _READERS.items():
        with suppress(InvalidInputError):
            values[field] = read(field, config.get(field), work)
    modules = config.get("target_modules")
    is_all_linear = isinstance(modules, str) and modules.lower() == "all-linear"
    is_open = is_all_linear or (modules is None and config.get("target_parameters") is None)
    return Targets(
        modules=None if is_open else values.get("target_modules"),
        is_all_linear=is_all_linear,
        heads=_HEADS | (CLASSIFIERS if config.get("task_type") == "SEQ_CLS" else frozenset()),
        excluded=values.get("exclude_modules") or frozenset(),
        saved=values.get("modules_to_save", ()),
        layers=values.get("layers_to_transform") or None,
        layer_patterns=values.get("layers_pattern") or (LayerNumber(regex=_ANY_LAYER, work=work),),
        unread=tuple(field for field in _READERS if values.get(field) is None),
    )


def _saved(field: str, value: object, work: Work) -> tuple[Expression, ...]:
    names = _texts(field, value)
    return tuple(
        _compile(field, rf"(^|.*\.){name}($|\..*)", work)
        or compile_expression(rf"(^|.*\.){re.escape(name)}($|\..*)", work)
        for name in names
    )


def _layers(field: str, value: object, _: Work) -> frozenset[int]:
    numbers = [value] if type(value) is int else value or []
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise _wrong(field, repr(value), "a number or a list of numbers")
    return frozenset(numbers)


def _layer_patterns(field: str, value: object, work: Work) -> tuple[LayerNumber, ...] | None:
    names = _texts(field, [value] if isinstance(value, str) and value else value or None)
    try:
        return tuple(compile_layer(name, work) for name in names)
    except UnboundedExpressionError:
        return None


def _paths(field: str, value: object, work: Work) -> Paths | None:
    """Return what a field says of module paths, None where that takes unbounded work."""
    if isinstance(value, str):
        return _compile(field, value, work)
    return frozenset(_texts(field, value))


# Of the fields that say which modules are targeted: what reads each; None where it cannot be.
_READERS: Final[Mapping[str, Callable[[str, object, Work], object]]] = {
    "target_modules": _paths,
    "exclude_modules": _paths,
    "modules_to_save": _saved,
    "layers_to_transform": _layers,
    "layers_pattern": _layer_patterns,
}


def _compile(field: str, text: str, work: Work) -> Expression | None:
    """Compile an expression; None where matching it takes unbounded work."""
    if len(text) > _MAX_EXPRESSION_LENGTH:
        return None
    try:
        return compile_expression(text, work)
    except UnboundedExpressionError:
        return None
    except ValueError as error:
        raise _wrong(field, f"{text[:80]!r}: {error}", "a regular expression or a list") from error


def _patterns(field: str, value: object, work: Work, *, rank: bool) -> tuple[Pattern, ...]:
    value = {} if value is None else value
    if not isinstance(value, dict) or len(value) > _MAX_PATTERNS:
        raise _wrong(field, type(value).__name__, f"an object of at most {_MAX_PATTERNS} members")
    return tuple(
        (_ending(field, text, work), (_rank if rank else _number)(f"{field}[{text!r}]", number))
        for text, number in value.items()
    )


def _ending(field: str, text: str, work: Work) -> Ending:
    ensure(
        len(text) <= _MAX_PATTERN_LENGTH,
        RefusedError(
            f"{CONFIG_FILE}: {field} has the expression {text[:80]!r} of {len(text)} letters,"
            f" expected at most {_MAX_PATTERN_LENGTH}.",
            hint="Write the module paths out.",
        ),
    )
    try:
        return compile_ending(text, work)
    except UnboundedExpressionError as error:
        raise RefusedError(
            f"{CONFIG_FILE}: {field} has the expression {text[:80]!r} with {error}, expected one"
            " that can be matched in bounded work.",
            hint="Write the module paths out.",
        ) from error
    except ValueError as error:
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
