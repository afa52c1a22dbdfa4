"""Which tensors of a base model in GGUF the factor pairs of an adapter are for.

The names are those of the package gguf for the architecture. The experts of a layer are one tensor;
fused ones, whose gate and up are the halves of one matrix in transformers 5, are two.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

import torch

from share_registry.algebra.error import FactorPair
from share_registry.errors import RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_config import ARCHITECTURES, MIXTURES, BaseConfig
from share_registry.exchange.base_model import class_of
from share_registry.exchange.config import PREFIX
from share_registry.exchange.normal_form import normal_form
from share_registry.exchange.selection import EXPERTS, Role, layout_roles
from share_registry.exchange.targets.subject import COPY, EXPERT, TRAINING_ONLY
from share_registry.exchange.tensors import pad_rows
from share_registry.format.layout import Form
from share_registry.names import first_and_more

OTHER_CONFIG: Final = "Give the config.json of the adapter's base model: base_config=...."
PEFT_HINT: Final = "Serve it with PEFT, or train it without."
INVOCATION: Final = "alora_invocation_tokens"
_REFUSED_FIELDS: Final = ("use_dora", "lora_bias", "layer_replication", "trainable_token_indices")
# Where models of several parts have the language model, and what some call their encoder
_LANGUAGE_MODEL: Final = ("model.language_model.", "language_model.model.")
_ENCODER: Final = ("bert.", "roberta.")
_TOKEN_EMBD, _OUTPUT = "token_embd", "output"
# What llama.cpp has no part in computing: it takes the hidden states of encoders
_POOLER: Final = re.compile(r"((bert|roberta)\.)?pooler\.dense")
# Where the classes that are written for have the layers of their language model
_LAYER: Final = re.compile(
    r"((model\.(language_model\.)?|language_model\.model\.)?layers|transformer\.h"
    r"|((bert|roberta)\.)?encoder\.layer)\.\d+\..+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufPair:
    """The factors of one tensor of the base model.

    Attributes:
        name: What llama.cpp calls it, without `.weight`.
        pairs: Of the one module, or of each expert; all of one rank.
        is_table: Whether it is the token embedding.
        is_stack: Whether it has one matrix for each expert.
    """

    name: str
    pairs: tuple[FactorPair, ...]
    is_table: bool = False
    is_stack: bool = False

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.pairs[0].a.shape[0]


def factors_alone(adapter: Adapter) -> tuple[Adapter, list[str]]:
    """Return an adapter of factor pairs alone, and notes on what that changed.

    Raises RefusedError where it has more.
    """
    form, notes = normal_form(adapter)
    copies = [key for key in form.passengers if COPY.fullmatch(key)]
    idle = [key for key in form.passengers if TRAINING_ONLY.fullmatch(key)]
    others = [key for key in form.passengers if key not in {*copies, *idle}]
    fields = [field for field in _REFUSED_FIELDS if form.config.get(field)]
    convolutions = [factor.module for factor in form.layout.factors if factor.form is Form.CONV]
    obstacles = [*fields, *filter(None, [first_and_more(others), first_and_more(convolutions)])]
    ensure(
        not obstacles and form.layout.factors,
        RefusedError(
            f"{adapter.ref or 'the adapter'} is not exported for llama.cpp: it has "
            f"{', '.join(obstacles) or 'no factor pairs'}, expected pairs of matrices alone.",
            hint="`share-registry lint REF` shows which server takes it.",
        ),
    )
    changes = list(notes)
    if copies:
        changes.append(f"{first_and_more(copies, 2)}: copies of the base model's, left out.")
    if idle:
        changes.append(f"{len(idle)} tensors used in training alone are left out.")
    return form, changes


def way_to_gguf(adapter: Adapter) -> str:
    """Return how to export an adapter for llama.cpp; "" where that is refused, or may be.

    The base model is known by its class alone. Where the config does not name that, the way says
    for which base models it is one.
    """
    name = class_of(adapter.config)
    if name and name not in ARCHITECTURES:
        return ""
    factors = adapter.layout.factors
    paths = [factor.module.removeprefix(PREFIX) for factor in factors]
    inner = [path for path in paths if not _POOLER.fullmatch(path)]
    has_experts = any(factor.form is Form.EXPERTS for factor in factors)
    if not inner or not all(map(_LAYER.fullmatch, inner)):
        return ""
    if has_experts and name and name not in MIXTURES:
        return ""
    try:
        factors_alone(adapter)
    except RefusedError:
        return ""
    condition = "" if name else ", where that is one of those that docs/serving.md lists"
    return (
        "Export it with target='llama.cpp', which makes GGUF of it, and base_config=... of its"
        f" base model{condition}."
    )


def named_pairs(
    adapter: Adapter, base: BaseConfig, library: Any
) -> tuple[list[GgufPair], list[str]]:
    """Return the pairs under llama.cpp's names, those of experts together, and what is left out.

    Args:
        adapter: The adapter, of factor pairs alone.
        base: The sizes of its base model.
        library: The package gguf.

    Raises RefusedError where llama.cpp has no such tensor, or serves no LoRA of it.
    """
    names = _tensor_names(library, base)
    single: list[GgufPair] = []
    idle: list[str] = []
    nests: dict[str, dict[int, FactorPair]] = defaultdict(dict)
    for role, form, pairs in _by_factor(adapter):
        if base.architecture == "bert" and _POOLER.fullmatch(role.path):
            idle.append(role.path)
            continue
        for path, expert, pair in _placed(role, form, pairs, base):
            name = _name_of(path, names, base)
            if expert is None:
                single.append(GgufPair(name=name, pairs=(pair,), is_table=form is Form.EMBEDDING))
            else:
                nests[name][expert] = pair
    named = [*single, *(_stack(name, nest, base) for name, nest in nests.items())]
    _check_names(named)
    for each in named:
        _check_table(each, base)
    return named, idle


def _by_factor(adapter: Adapter) -> Iterator[tuple[Role, Form, list[FactorPair]]]:
    """Yield what every factor pair of the files is for, its form, and those of its experts."""
    remaining = iter(adapter.factor_pairs())
    roles = layout_roles(adapter.config, adapter.layout)
    for factor, role in zip(adapter.layout.factors, roles, strict=True):
        yield role, factor.form, [*islice(remaining, factor.experts)]


def _placed(
    role: Role, form: Form, pairs: Sequence[FactorPair], base: BaseConfig
) -> Iterator[tuple[str, int | None, FactorPair]]:
    """Yield the path of a module, the number of its expert, and its pair. Raises RefusedError."""
    for number, pair in enumerate(pairs):
        _check_width(pair, base)
        if form is Form.EXPERTS:
            for name, part in _halves(role, pair, base):
                yield f"{role.path}.{name}", number, part
        elif expert := EXPERT.fullmatch(pair.module):
            owner = pair.module.rpartition(".")[0]
            yield f"{expert[1]}.{expert[2]}", int(owner.rpartition(".")[2]), pair
        else:
            yield pair.module, None, pair


def _halves(role: Role, pair: FactorPair, base: BaseConfig) -> list[tuple[str, FactorPair]]:
    """Return what one expert's fused pair is of gate, up and down. Raises RefusedError."""
    gate_up, down = EXPERTS
    rows = pair.b.shape[1]
    is_whole = pair.a.shape[1] == base.width and rows % 2 == 0
    is_known = role.parameter == down or (role.parameter == gate_up and is_whole)
    ensure(
        base.name in MIXTURES and is_known,
        RefusedError(
            f"module {role.path!r}: the fused experts of {base.name} cannot be taken apart for"
            " llama.cpp.",
            hint=PEFT_HINT,
        ),
    )
    if role.parameter == down:
        return [("down_proj", pair)]
    return [
        ("gate_proj", replace(pair, b=pair.b[:, : rows // 2])),
        ("up_proj", replace(pair, b=pair.b[:, rows // 2 :])),
    ]


def _check_names(named: Sequence[GgufPair]) -> None:
    """Raise RefusedError where several modules are one tensor, or there is none."""
    counts = Counter(each.name for each in named)
    twice = sorted(name for name, count in counts.items() if count > 1)
    ensure(
        not twice,
        RefusedError(
            f"several modules are llama.cpp's {first_and_more(twice, 3)}, expected one of each.",
            hint=PEFT_HINT,
        ),
    )
    ensure(
        named,
        RefusedError("llama.cpp has a part in none of the adapter's modules.", hint=PEFT_HINT),
    )


def _tensor_names(library: Any, base: BaseConfig) -> Any:
    """Return gguf's map from the names of modules to those of tensors."""
    numbers = {name: number for number, name in library.MODEL_ARCH_NAMES.items()}
    ensure(
        base.architecture in numbers,
        RefusedError(
            f"this release of the package gguf does not know {base.architecture}.",
            hint="pip install -U gguf",
        ),
    )
    return library.get_tensor_name_map(numbers[base.architecture], base.layers)


def _name_of(path: str, names: Any, base: BaseConfig) -> str:
    """Return what llama.cpp calls a module. Raises RefusedError."""
    plain = path
    for prefix in _LANGUAGE_MODEL:
        if plain.startswith(prefix):
            plain = f"model.{plain.removeprefix(prefix)}"
    if base.architecture == "bert":
        for prefix in _ENCODER:
            plain = plain.removeprefix(prefix)
    name = names.get_name(plain)
    ensure(
        name,
        RefusedError(
            f"module {path!r}: llama.cpp has no tensor for it in a {base.architecture} model of"
            f" {base.layers} layers.",
            hint=f"See whether {base.place} is that of the adapter's base model."
            if _LAYER.fullmatch(path)
            else PEFT_HINT,
        ),
    )
    return str(name)


def _check_width(pair: FactorPair, base: BaseConfig) -> None:
    """Raise RefusedError where a module cannot be of the base model."""
    sizes = (pair.a.shape[1], pair.b.shape[1])
    ensure(
        base.width in sizes,
        RefusedError(
            f"module {pair.module!r} leads from {sizes[0]} to {sizes[1]}, {base.place} says that"
            f" the base model is {base.width} wide.",
            hint=OTHER_CONFIG,
        ),
    )


def _check_table(named: GgufPair, base: BaseConfig) -> None:
    """Raise RefusedError for what llama.cpp does not serve of embeddings."""
    ensure(
        not named.is_table or named.name == _TOKEN_EMBD,
        RefusedError(
            f"module {named.pairs[0].module!r}: llama.cpp serves factors of no embedding but that"
            " of tokens.",
            hint=PEFT_HINT,
        ),
    )
    is_outer = named.name in (_TOKEN_EMBD, _OUTPUT)
    ensure(
        not (is_outer and base.is_tied),
        RefusedError(
            f"module {named.pairs[0].module!r}: llama.cpp does not serve it in models whose output"
            " is their embedding.",
            hint=PEFT_HINT,
        ),
    )
    rows = named.pairs[0].a.shape[1] if named.is_table else named.pairs[0].b.shape[1]
    ensure(
        not is_outer or base.vocabulary in (None, rows),
        RefusedError(
            f"module {named.pairs[0].module!r} has {rows} rows, the base model has"
            f" {base.vocabulary}: llama.cpp loads no grown vocabulary from an adapter.",
            hint="Merge the adapter into its base model, and convert that.",
        ),
    )


def _stack(name: str, nest: Mapping[int, FactorPair], base: BaseConfig) -> GgufPair:
    """Return the experts of a layer in order, at one rank; those that lack a pair have zeros."""
    count = base.experts or max(nest) + 1
    ensure(
        max(nest) < count,
        RefusedError(
            f"{name} has an expert {max(nest)}, {base.place} says that there are {count}.",
            hint=OTHER_CONFIG,
        ),
    )
    rank = max(pair.a.shape[0] for pair in nest.values())
    near = next(iter(nest.values()))
    zeros = (torch.zeros_like(near.a), torch.zeros_like(near.b))
    pairs = []
    for expert in range(count):
        pair = nest.get(expert)
        a, b = pad_rows(zeros if pair is None else (pair.a, pair.b), rank)
        # padding leaves the product as it is, and so the scale
        scale = near.scale if pair is None else pair.scale
        pairs.append(FactorPair(module=f"{name}.{expert}", a=a, b=b, scale=scale))
    return GgufPair(name=name, pairs=tuple(pairs), is_stack=True)
