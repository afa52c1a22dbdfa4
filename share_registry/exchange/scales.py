"""Derive rank and scale of every module from a config, as PEFT does.

A pattern is a regular expression that must match the end of the module path on a dot boundary; the
first one in file order wins. What PEFT matches is the path in the plain model: without its prefix,
without the `base_layer` of a wrapper, and for target_parameters with the parameter's name behind
it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from share_registry.errors import RefusedError
from share_registry.exchange.config import CONFIG_FILE, Pattern, Settings, settings_of
from share_registry.format.layout import Layout

# What PEFT puts before every module path in its keys.
PREFIX: Final = "base_model.model."


def module_scales(config: Mapping[str, object], layout: Layout) -> list[float]:
    """Return s of dW = s B A for every module, in the order of `layout.modules()`.

    Raises InvalidInputError, RefusedError.
    """
    settings = settings_of(config)
    return [
        scale
        for factor in layout.factors
        for scale in [scale_of(settings, factor.module)] * len(layout.modules_of(factor))
    ]


def scale_of(settings: Settings, module: str) -> float:
    """Return s of one factor pair.

    Raises RefusedError where the files do not say which of several applies.
    """
    rank = rank_of(settings, module)
    alpha = _value("alpha", settings, module, settings.alphas, settings.alpha)
    return alpha / math.sqrt(rank) if settings.rslora else alpha / rank


def rank_of(settings: Settings, module: str) -> int:
    """Return the rank a config gives a module.

    Raises RefusedError where the files do not say which of several applies.
    """
    return int(_value("rank", settings, module, settings.ranks, settings.rank))


def paths_of(settings: Settings, module: str) -> list[str]:
    """Return the paths to match patterns with: several where several parameters are targeted."""
    plain = plain_path(module)
    return [f"{plain}.{name}" for name in parameters_of(settings, module)] or [plain]


def parameters_of(settings: Settings, module: str) -> list[str]:
    """Return a module's parameters in target_parameters; none for an ordinary module."""
    plain = plain_path(module)
    owners = [target.rpartition(".") for target in settings.parameters]
    return sorted(
        {
            name
            for owner, _, name in owners
            if not owner or plain == owner or plain.endswith(f".{owner}")
        }
    )


def plain_path(module: str) -> str:
    """Return the path of a wrapped module in the model as it was before wrapping."""
    return module.partition(".base_layer")[0]


def ambiguous(settings: Settings, modules: Sequence[str]) -> list[str]:
    """Return the modules for which several patterns with different values match.

    PEFT saves patterns sorted, so that the one trained with may have been another.
    """
    return [
        module
        for module in modules
        if any(
            len(set(_matches(patterns, path))) > 1
            for path in paths_of(settings, module)
            for patterns in (settings.ranks, settings.alphas)
        )
    ]


def _matches(patterns: tuple[Pattern, ...], path: str) -> Iterator[float]:
    return (pattern.value for pattern in patterns if pattern.regex.match(path))


def _value(
    field: str, settings: Settings, module: str, patterns: tuple[Pattern, ...], default: float
) -> float:
    values = [next(_matches(patterns, path), default) for path in paths_of(settings, module)]
    if len(set(values)) > 1:
        raise RefusedError(
            f"{CONFIG_FILE}: the patterns give the parameters of {module!r} the {field}s"
            f" {sorted(set(values))}, expected one: which tensor is which parameter's stands in"
            " no file.",
            hint="Give all parameters of a module the same rank and alpha.",
        )
    return values[0]
