"""Which factors of an adapter PEFT takes up, and at what rank and scale.

PEFT loads a file leniently: factors that its config does not select are left out without a word. So
the names in a file alone do not say what the adapter does; whoever computes with dW asks here. The
rules are those of PEFT 0.21.2: `check_target_module_exists` for modules, `_inject_parameters` for
target_parameters, `get_pattern_key` for ranks and scales. A pattern is a regular expression that
must match the end of the path on a dot boundary; the first one in file order wins. What PEFT
matches is the path in the plain model: without its prefix, without the `base_layer` of a wrapper,
and for a parameter with its name behind it.

What only the model could tell is read from the file. A module that is not targeted itself has its
factors for parameters. A name of target_parameters without a dot may be any module's; where some
modules evidently hold experts (by nested pairs, by their name, by more rows than the rank), it is
theirs alone. Pairs for several parameters of one module are
nested in the order in which the module has them, which stands in no file: the ranks that fit the
shapes decide, then the order of transformers' experts.
"""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Final

from share_registry.errors import RefusedError
from share_registry.exchange.config import (
    CLASSIFIERS,
    CONFIG_FILE,
    Paths,
    Settings,
    Targets,
    names_in,
    settings_of,
)
from share_registry.exchange.expressions import Expression
from share_registry.exchange.plain_keys import path_in_model
from share_registry.format.layout import Layout, TensorSpec

# What modules of experts call their parameters, in the order in which they have them.
EXPERTS: Final = ("gate_up_proj", "down_proj")
_USUAL_OWNER: Final = "experts"
_WRAPPED: Final = ".base_layer"
# Of parameters of one module whose patterns differ; more are not tried.
_MAX_NAMES: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What PEFT makes of one factor pair.

    Attributes:
        path: Its module in the plain model.
        parameter: The parameter of the module that it is for; empty where it is for the module, or
            where that is not known.
        is_parameter: Whether it is for a parameter.
        is_selected: Whether the config selects it; else it is no part of the function.
        rank: Its rank.
        scale: s of dW = s B A; 0 where it is not selected.
    """

    path: str
    parameter: str = ""
    is_parameter: bool = False
    is_selected: bool
    rank: int
    scale: float


def roles_of(settings: Settings, factors: Mapping[str, TensorSpec]) -> dict[str, Role]:
    """Return the role of every factor pair.

    Args:
        settings: What the config says.
        factors: Module, as in the keys of the file but for the prefix, and the tensor of its A.

    Raises RefusedError where the files do not say which of several ranks or scales applies.
    """
    roles: dict[str, Role] = {}
    others: dict[str, list[str]] = defaultdict(list)
    for module, a in factors.items():
        path = path_in_model(
            plain_path(module, factors), key=a.key, strip_front=settings.on_transformers
        )
        if _is_selected(settings.targets, path, a):
            roles[module] = _role(settings, path)
        else:
            others[path].append(module)
    # the innermost first, which is the first parameter that the module has
    nests = {path: sorted(modules, key=len, reverse=True) for path, modules in others.items()}
    owners = _owners(settings, nests, factors)
    for path, modules in nests.items():
        names = _parameters_of(settings, path, len(modules)) if path in owners else []
        strangers = modules[: max(0, len(modules) - len(names))]
        roles |= {
            module: Role(path=path, is_selected=False, rank=factors[module].shape[0], scale=0.0)
            for module in strangers
        }
        if nest := modules[len(strangers) :]:
            rows = [factors[module].shape[0] for module in nest]
            roles |= zip(nest, _nest_roles(settings, path, names, rows), strict=True)
    return roles


def layout_roles(config: Mapping[str, object], layout: Layout) -> list[Role]:
    """Return the role of every factor pair of a layout, in its order.

    Raises InvalidInputError, RefusedError.
    """
    roles = roles_of(
        settings_of(config), {factor.module: layout.tensors[factor.a] for factor in layout.factors}
    )
    return [roles[factor.module] for factor in layout.factors]


def module_scales(config: Mapping[str, object], layout: Layout) -> list[float]:
    """Return s of dW = s B A for every module, in the order of `layout.modules()`.

    It is 0 for modules that the config does not select. Raises InvalidInputError, RefusedError.
    """
    roles = zip(layout.factors, layout_roles(config, layout), strict=True)
    return [role.scale for factor, role in roles for _ in range(factor.experts)]


def role_of_path(settings: Settings, path: str) -> Role:
    """Return the role of a module that a config is known to select, by its path in the model."""
    return _role(settings, path)


def absent_heads(config: Mapping[str, object], keys: Collection[str]) -> list[str]:
    """Return the names in modules_to_save that no tensor beside the factors is for.

    PEFT names both heads that a classifier may have; one of them is enough.
    """
    modules = {end for key in keys for end in _prefixes(key)}
    names = names_in(config, "modules_to_save")
    backwards = sorted(module[::-1] for module in modules)
    absent = [name for name in names if not _any_begins(backwards, name[::-1])]
    has_head = CLASSIFIERS & set(names) - set(absent)
    return [name for name in absent if not (has_head and name in CLASSIFIERS)]


def _any_begins(texts: Sequence[str], beginning: str) -> bool:
    """Tell whether any of some sorted texts begins so."""
    place = bisect_left(texts, beginning)
    return place < len(texts) and texts[place].startswith(beginning)


def _prefixes(key: str) -> list[str]:
    return [key[:place] for place, letter in enumerate(key) if letter == "."]


def plain_path(module: str, modules: Collection[str]) -> str:
    """Return the path of a wrapped module in the model as it was before wrapping.

    A `base_layer` is a wrapper's where what is before it has factors of its own; else the model
    calls a module so.

    Args:
        module: The module.
        modules: All that have factors.
    """
    end = module.find(_WRAPPED)
    while end >= 0:
        if module[:end] in modules:
            return module[:end]
        end = module.find(_WRAPPED, end + 1)
    return module


def ambiguous(settings: Settings, roles: Mapping[str, Role]) -> list[str]:
    """Return the modules for which several patterns with different values match.

    PEFT saves patterns sorted, so that the one trained with may have been another.
    """
    return [
        module
        for module, role in roles.items()
        if any(
            len(
                {
                    value
                    for ending, value in patterns
                    if ending.matches(_key(role.path, role.parameter))
                }
            )
            > 1
            for patterns in (settings.ranks, settings.alphas)
        )
    ]


def ends_with(path: str, names: Paths | AbstractSet[str]) -> bool:
    """Tell whether a path is one of the names or ends with one, as PEFT matches names.

    An expression must match the whole path.
    """
    if isinstance(names, Expression):
        return names.matches(path)
    return bool(names) and any(ending in names for ending in endings_of(path))


def endings_of(path: str) -> Iterator[str]:
    """Yield what follows each dot of a path, the shortest first, then the path."""
    end = path.rfind(".")
    while end >= 0:
        yield path[end + 1 :]
        end = path.rfind(".", 0, end)
    yield path


def _is_selected(targets: Targets, path: str, a: TensorSpec) -> bool:
    if ends_with(path, targets.excluded) or any(
        name.matches_beginning(path) for name in targets.saved
    ):
        return False
    if targets.is_all_linear:
        is_linear = len(a.shape) == 2 and not a.key.endswith("lora_embedding_A")
        return is_linear and path.rpartition(".")[2] not in targets.heads
    if targets.modules is None:
        return True
    if isinstance(targets.modules, Expression) or path in targets.modules:
        return ends_with(path, targets.modules)
    return ends_with(path, targets.modules) and _is_in_layers(targets, path)


def _is_in_layers(targets: Targets, path: str) -> bool:
    if targets.layers is None:
        return True
    numbers = (pattern.find(path) for pattern in targets.layer_patterns)
    return next((number for number in numbers if number is not None), None) in targets.layers


def _owners(
    settings: Settings, nests: Mapping[str, Sequence[str]], factors: Mapping[str, TensorSpec]
) -> set[str]:
    """Return the paths of modules whose parameters are targeted."""
    owners = {path for path, nest in nests.items() if _parameters_of(settings, path, len(nest))}
    unnamed = {path for path in owners if not _named_parameters(settings, path)}
    signs = (
        {path for path in unnamed if len(nests[path]) > 1},
        {path for path in unnamed if path.rpartition(".")[2] == _USUAL_OWNER},
        {path for path in unnamed if _holds_experts(settings, path, factors[nests[path][0]])},
        unnamed,
    )
    kinds = {path.rpartition(".")[2] for path in next(filter(None, signs), ())}
    return {path for path in owners if path not in unnamed or path.rpartition(".")[2] in kinds}


def _holds_experts(settings: Settings, path: str, a: TensorSpec) -> bool:
    ranks = {_rank(settings, _key(path, name)) for name in _parameters_of(settings, path, 1)}
    return all(a.shape[0] > rank for rank in ranks)


def _named_parameters(settings: Settings, path: str) -> list[str]:
    # comparing a name with a path takes as long as five steps
    settings.work.spend(5 * len(settings.parameters))
    targets = (target.rpartition(".") for target in settings.parameters)
    names = {name for owner, _, name in targets if owner and ends_with(path, {owner})}
    return sorted(names)


def _parameters_of(settings: Settings, path: str, count: int) -> list[str]:
    """Return the parameters that a module may have factors for.

    Those that any module may have are asked only where it has more pairs than names of its own.
    """
    named = _named_parameters(settings, path)
    if len(named) >= count:
        return named
    return sorted({*named, *(name for name in settings.parameters if "." not in name)})


def _nest_roles(
    settings: Settings, path: str, names: Sequence[str], rows: Sequence[int]
) -> list[Role]:
    """Return the roles of the pairs of one module's parameters, the innermost pair first."""
    keys = {name: _key(path, name) for name in names}
    values = {name: (_rank(settings, key), _alpha(settings, key)) for name, key in keys.items()}
    differ = len(set(values.values())) > 1
    order = _order(path, values, rows) if differ else sorted(names, key=_place)[: len(rows)]
    is_known = differ or len(names) == 1 or (len(names) == len(rows) and set(names) <= {*EXPERTS})
    return [
        replace(_role(settings, path, name), parameter=name if is_known else "", is_parameter=True)
        for name in order
    ]


def _order(path: str, values: Mapping[str, tuple[int, float]], rows: Sequence[int]) -> list[str]:
    """Return which parameter each pair is for, the innermost pair first.

    Raises RefusedError where neither shapes nor the usual order tell.
    """
    tried = permutations(sorted(values, key=_place), len(rows)) if len(values) <= _MAX_NAMES else ()
    fitting = [names for names in tried if _fits([values[name][0] for name in names], rows)]
    usual = [
        names
        for names in fitting
        if set(names) <= {*EXPERTS} and list(names) == sorted(names, key=_place)
    ]
    for orders in (fitting, usual):
        if len({tuple(values[name] for name in names) for names in orders}) == 1:
            return list(orders[0])
    ranks, alphas = (sorted(set(column)) for column in zip(*values.values(), strict=True))
    raise RefusedError(
        f"{CONFIG_FILE}: the patterns give the parameters of {path!r} the ranks {ranks} and the"
        f" alphas {alphas}, expected one of each: which tensor is which parameter's stands in no"
        " file.",
        hint="Give all parameters of a module the same rank and alpha.",
    )


def _fits(ranks: Sequence[int], rows: Sequence[int]) -> bool:
    """Tell whether ranks mean one number of experts, which the parameters of a module share."""
    pairs = list(zip(rows, ranks, strict=True))
    return all(count % rank == 0 for count, rank in pairs) and (
        len({count // rank for count, rank in pairs}) == 1
    )


def _place(name: str) -> tuple[int, str]:
    return (EXPERTS.index(name) if name in EXPERTS else len(EXPERTS), name)


def _role(settings: Settings, path: str, parameter: str = "") -> Role:
    key = _key(path, parameter)
    rank, alpha = _rank(settings, key), _alpha(settings, key)
    return Role(
        path=path,
        parameter=parameter,
        is_selected=True,
        rank=rank,
        scale=alpha / math.sqrt(rank) if settings.rslora else alpha / rank,
    )


def _key(path: str, parameter: str) -> str:
    return f"{path}.{parameter}" if parameter else path


def _rank(settings: Settings, key: str) -> int:
    values = (int(value) for ending, value in settings.ranks if ending.matches(key))
    return next(values, settings.rank)


def _alpha(settings: Settings, key: str) -> float:
    values = (value for ending, value in settings.alphas if ending.matches(key))
    return next(values, settings.alpha)
