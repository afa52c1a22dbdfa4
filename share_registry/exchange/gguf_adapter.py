"""A LoRA for llama.cpp: one GGUF file, as its own converter writes it for a base model.

The names are those of the package gguf for the architecture. Of models whose q and k have their
rows in an order of llama.cpp's own, head by head, so have those of B. The token embedding's A is
transposed, and the experts of a layer are one tensor.

llama.cpp scales each pair by alpha / rank, with one alpha for all, in float32. That is the alpha of
most modules; of the others B is multiplied by what is missing, in float64, before its one rounding.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from share_registry.algebra.error import FactorPair, pooled_error
from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_config import BaseConfig, is_hub_id
from share_registry.exchange.export_files import CardFacts
from share_registry.exchange.gguf_names import (
    INVOCATION,
    OTHER_CONFIG,
    GgufPair,
    factors_alone,
    named_pairs,
)
from share_registry.exchange.tensors import check_no_overflow
from share_registry.names import first_and_more
from share_registry.outside.files import Outside

TARGET: Final = "llama.cpp"
GGUF_FILE: Final = "adapter.gguf"
GGUF_DTYPES: Final = (torch.float32, torch.float16)
_MAX_BYTES: Final = 4 << 30
_INVOCATION_KEY: Final = "adapter.alora.invocation_tokens"
# Rounding of alpha to float32 alone
_SAME_SCALE: Final = 2.0**-23
_WORTH_SAYING: Final = 1e-6


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
    form, notes = factors_alone(adapter)
    named, idle = named_pairs(form, base, library)
    if idle:
        notes.append(f"{first_and_more(idle, 2)}: llama.cpp does not compute it, left out.")
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
        if base.turned and named.name.endswith((".attn_q", ".attn_k")):
            heads = base.turned.heads if named.name.endswith("q") else base.turned.kv_heads
            b = _turn(b, heads, base.turned.head_width, pair.module, base)
        sides_a.append(pair.a.T if named.is_table else pair.a)
        sides_b.append(b)
    for end, sides in (("a", sides_a), ("b", sides_b)):
        tensor = torch.stack(sides) if named.is_stack else sides[0]
        yield f"{named.name}.weight.lora_{end}", tensor.contiguous()


def _turn(
    b: torch.Tensor, heads: int, head_width: int, module: str, base: BaseConfig
) -> torch.Tensor:
    """Return the rows of B as llama.cpp rotates them: of each head, both halves interleaved."""
    rows, rank = b.shape
    ensure(
        rows == heads * head_width and head_width % 2 == 0,
        RefusedError(
            f"module {module!r} has {rows} rows, {base.place} says {heads} heads of {head_width}.",
            hint=OTHER_CONFIG,
        ),
    )
    halves = b.reshape(heads, 2, head_width // 2, rank)
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
        if invocation := form.config.get(INVOCATION):
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
