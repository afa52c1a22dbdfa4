"""A LoRA for llama.cpp: one GGUF file, as its own converter writes it for a base model.

The names are those of the package gguf for the architecture. Of models whose q and k have their
rows in an order of llama.cpp's own, head by head, so have those of B. The token embedding's A is
transposed, and the experts of a layer are one tensor.

llama.cpp scales each pair by alpha / rank, with one alpha for all, in float32. That is the alpha of
most modules; of the others B is multiplied by what is missing, in float64, before its one rounding.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from share_registry.algebra.error import FactorPair, pooled_error
from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_config import BaseConfig, is_hub_id
from share_registry.exchange.export_files import CardFacts
from share_registry.exchange.importers.gguf_lora import TURNED
from share_registry.exchange.normal_form import normal_form
from share_registry.exchange.portable import portable
from share_registry.exchange.targets.subject import COPY, EXPERT, TRAINING_ONLY
from share_registry.exchange.tensors import check_no_overflow, pad_rows
from share_registry.format.layout import Form
from share_registry.names import first_and_more
from share_registry.outside.files import Outside

TARGET: Final = "llama.cpp"
GGUF_FILE: Final = "adapter.gguf"
GGUF_DTYPES: Final = (torch.float32, torch.float16)
_MAX_BYTES: Final = 4 << 30
_REFUSED_FIELDS: Final = ("use_dora", "lora_bias", "layer_replication", "trainable_token_indices")
_INVOCATION: Final = "alora_invocation_tokens"
_INVOCATION_KEY: Final = "adapter.alora.invocation_tokens"
# Where models of several parts have the language model
_LANGUAGE_MODEL: Final = ("model.language_model.", "language_model.model.")
_TOKEN_EMBD, _OUTPUT = "token_embd", "output"
# Rounding of alpha to float32 alone
_SAME_SCALE: Final = 2.0**-23
_WORTH_SAYING: Final = 1e-6
_OTHER_CONFIG: Final = "Give the config.json of the adapter's base model: base_config=...."
_PEFT_HINT: Final = "Serve it with PEFT, or train it without."


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufAdapter:
    """A GGUF file.

    Attributes:
        content: Its bytes: the same adapter gives the same.
        notes: What is not as it was committed.
    """

    content: bytes
    notes: tuple[str, ...]


def gguf_adapter(
    adapter: Adapter, base: BaseConfig, *, card: CardFacts, dtype: torch.dtype, outside: Outside
) -> GgufAdapter:
    """Return an adapter as a GGUF file for llama.cpp.

    Args:
        adapter: The adapter.
        base: The sizes of its base model.
        card: What the file says of it.
        dtype: float32 or float16, of all tensors.
        outside: Where the package gguf writes it.

    Raises:
        InvalidInputError: another dtype.
        RefusedError: llama.cpp cannot hold the adapter, it is not of this base model, a value is
            more than float16 holds, or the package gguf is not installed.
    """
    library = _gguf()
    ensure(
        dtype in GGUF_DTYPES,
        InvalidInputError(
            f"dtype {str(dtype).removeprefix('torch.')} is not float32 or float16.",
            hint="Leave it out for float32, in which nothing is rounded that was not before.",
        ),
    )
    form, notes = _factors_alone(adapter, base)
    named = _named(form, base, library)
    alpha = _usual_alpha(named)
    scaled = [_at_alpha(each, alpha, dtype) for each in named]
    notes += _changes(named, scaled, alpha)
    content = _write(library, form, base, card, alpha, scaled, outside)
    return GgufAdapter(content=content, notes=tuple(f"llama.cpp: {note}" for note in notes))


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise RefusedError(
            f"the package gguf is not installed, expected it to write for llama.cpp ({error}).",
            hint="pip install 'share-registry[gguf]'",
        ) from error
    return gguf


def _factors_alone(adapter: Adapter, base: BaseConfig) -> tuple[Adapter, list[str]]:
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
    if not any(factor.form is Form.EXPERTS for factor in form.layout.factors):
        return form, changes
    # the class says how its experts are called, which a label need not
    labelled = replace(adapter, config={**adapter.config, "base_model_name_or_path": base.name})
    split, split_notes = portable(labelled, base_model=base.name)
    ensure(
        all(factor.form is not Form.EXPERTS for factor in split.layout.factors),
        RefusedError(
            f"{adapter.ref or 'the adapter'} is not exported for llama.cpp: its fused experts"
            " cannot be taken apart.",
            hint="The notes of an export with profile='portable' say why.",
        ),
    )
    return split, list(split_notes)


def _named(adapter: Adapter, base: BaseConfig, library: Any) -> list[GgufPair]:
    """Return the pairs under llama.cpp's names, those of experts together. Raises RefusedError."""
    tables = {factor.module for factor in adapter.layout.factors if factor.form is Form.EMBEDDING}
    names = _tensor_names(library, base)
    single: list[GgufPair] = []
    nests: dict[str, dict[int, FactorPair]] = defaultdict(dict)
    for pair in adapter.factor_pairs():
        _check_width(pair, base)
        expert = EXPERT.fullmatch(pair.module)
        path = pair.module if expert is None else f"{expert[1]}.{expert[2]}"
        name = _name_of(path, names, base)
        if expert is None:
            single.append(GgufPair(name=name, pairs=(pair,), is_table=pair.module in tables))
        else:
            nests[name][int(pair.module.rpartition(".")[0].rpartition(".")[2])] = pair
    named = [*single, *(_stack(name, nest, base) for name, nest in nests.items())]
    counts = Counter(each.name for each in named)
    twice = sorted(name for name, count in counts.items() if count > 1)
    ensure(
        not twice,
        RefusedError(
            f"several modules are llama.cpp's {first_and_more(twice, 3)}, expected one of each.",
            hint=_PEFT_HINT,
        ),
    )
    for each in named:
        _check_table(each, base)
    return named


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
    for prefix in _LANGUAGE_MODEL:
        if path.startswith(prefix):
            path = f"model.{path.removeprefix(prefix)}"
    name = names.get_name(path)
    ensure(
        name,
        RefusedError(
            f"module {path!r}: llama.cpp has no tensor for it in a {base.architecture} model of"
            f" {base.layers} layers.",
            hint=f"See whether {base.place} is that of the adapter's base model.",
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
            hint=_OTHER_CONFIG,
        ),
    )


def _check_table(named: GgufPair, base: BaseConfig) -> None:
    """Raise RefusedError for what llama.cpp does not serve of embeddings."""
    is_outer = named.name in (_TOKEN_EMBD, _OUTPUT)
    ensure(
        not (is_outer and base.is_tied),
        RefusedError(
            f"module {named.pairs[0].module!r}: llama.cpp does not serve it in models whose output"
            " is their embedding.",
            hint=_PEFT_HINT,
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
            hint=_OTHER_CONFIG,
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


def _usual_alpha(named: Sequence[GgufPair]) -> float:
    """Return the alpha of most modules in float32; llama.cpp reads 0 as a scale of 1."""
    alphas = Counter(
        float(np.float32(pair.scale * each.rank))
        for each in named
        for pair in each.pairs
        if pair.scale
    )
    return max(alphas, key=lambda alpha: alphas[alpha]) if alphas else 1.0


def _at_alpha(named: GgufPair, alpha: float, dtype: torch.dtype) -> GgufPair:
    """Return pairs that llama.cpp's scale is right for, rounded. Raises RefusedError."""
    pairs = []
    for pair in named.pairs:
        rounded = replace(
            pair,
            a=pair.a.to(dtype),
            b=(pair.b * _lacking(pair, named.rank, alpha)).to(dtype),
            scale=alpha / named.rank,
        )
        check_no_overflow(f"{pair.module}.lora_A", rounded.a)
        check_no_overflow(f"{pair.module}.lora_B", rounded.b)
        pairs.append(rounded)
    return replace(named, pairs=tuple(pairs))


def _lacking(pair: FactorPair, rank: int, alpha: float) -> float:
    """Return what B lacks at an alpha; 1 where that is no more than the rounding of alpha."""
    factor = pair.scale * rank / alpha
    return 1.0 if abs(factor - 1.0) <= _SAME_SCALE else factor


def _changes(named: Sequence[GgufPair], scaled: Sequence[GgufPair], alpha: float) -> list[str]:
    """Return notes on what the one alpha and the element type changed."""
    notes = []
    pairs = [(pair, each.rank) for each in named for pair in each.pairs]
    folded = sum(_lacking(pair, rank, alpha) != 1.0 for pair, rank in pairs)
    if folded:
        notes.append(
            f"GGUF has one alpha, {alpha:g}: what the scale of {folded} of {len(pairs)} modules"
            " is beyond that is folded into B."
        )
    rounded = [pair for each in scaled for pair in each.pairs]
    if rounded[0].a.dtype != torch.float32:
        wide = [replace(pair, a=pair.a.double(), b=pair.b.double()) for pair in rounded]
        error = pooled_error(wide, [pair for pair, _ in pairs])
        if error >= _WORTH_SAYING:
            notes.append(f"rounding to float16 adds a relative error of {error:.2g}.")
    return notes


def _tensors(named: GgufPair, base: BaseConfig) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield A and B of a tensor under their keys, shaped as llama.cpp has them."""
    sides_a, sides_b = [], []
    for pair in named.pairs:
        b = pair.b.T
        if base.architecture in TURNED and named.name.endswith((".attn_q", ".attn_k")):
            heads = base.heads if named.name.endswith("q") else base.kv_heads
            b = _turn(b, heads, pair.module, base)
        sides_a.append(pair.a.T if named.is_table else pair.a)
        sides_b.append(b)
    for end, sides in (("a", sides_a), ("b", sides_b)):
        tensor = torch.stack(sides) if named.is_stack else sides[0]
        yield f"{named.name}.weight.lora_{end}", tensor.contiguous()


def _turn(b: torch.Tensor, heads: int, module: str, base: BaseConfig) -> torch.Tensor:
    """Return the rows of B as llama.cpp rotates them: of each head, both halves interleaved."""
    rows, rank = b.shape
    ensure(
        rows == heads * base.head_width and base.head_width % 2 == 0,
        RefusedError(
            f"module {module!r} has {rows} rows, {base.place} says {heads} heads of"
            f" {base.head_width}.",
            hint=_OTHER_CONFIG,
        ),
    )
    halves = b.reshape(heads, 2, base.head_width // 2, rank)
    return halves.transpose(1, 2).reshape(rows, rank)


def _write(
    library: Any,
    form: Adapter,
    base: BaseConfig,
    card: CardFacts,
    alpha: float,
    scaled: Sequence[GgufPair],
    outside: Outside,
) -> bytes:
    """Return the file, as the package gguf writes it."""
    folder = outside.temporary_directory("share-registry-")
    try:
        path = folder / GGUF_FILE
        writer = library.GGUFWriter(path, base.architecture)
        writer.add_type(library.GGUFType.ADAPTER)
        writer.add_string(library.Keys.Adapter.TYPE, "lora")
        writer.add_name(card.ref or "LoRA adapter")
        if card.base_model:
            writer.add_base_model_count(1)
            writer.add_base_model_name(0, card.base_model)
            if is_hub_id(card.base_model):
                writer.add_base_model_repo_url(0, f"https://huggingface.co/{card.base_model}")
        is_wide = scaled[0].pairs[0].a.dtype == torch.float32
        kinds = library.LlamaFileType
        writer.add_file_type(kinds.ALL_F32 if is_wide else kinds.MOSTLY_F16)
        writer.add_float32(library.Keys.Adapter.LORA_ALPHA, alpha)
        if invocation := form.config.get(_INVOCATION):
            types = library.GGUFValueType
            writer.add_key_value(_INVOCATION_KEY, invocation, types.ARRAY, types.UINT32)
        for each in scaled:
            for key, tensor in _tensors(each, base):
                writer.add_tensor(key, tensor.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return outside.read(path, limit=_MAX_BYTES)
    finally:
        outside.remove_tree(folder)
