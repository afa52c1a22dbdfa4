"""Measure an adapter that is not stored yet, from the bytes that would be.

They are decoded as a checkout decodes them, a group of tensors at a time: each is compared with the
source, hashed as part of the file that export writes, and given up. So no more than a few groups of
decoded tensors are in memory, nor of the integers of an object too large to be kept.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, starmap
from math import sqrt
from operator import is_
from typing import Final

import torch

from share_registry.algebra.error import Comparison, FactorPair, compare, norm, pool
from share_registry.algebra.quantise import Scratch, Scratches
from share_registry.algebra.rate_distortion import Rows, join_rows, rows_of_modules
from share_registry.algebra.threads import one_thread
from share_registry.errors import IntegrityError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.export_files import digest_in_order
from share_registry.exchange.normal_form import function_pairs
from share_registry.exchange.tensors import TensorGroup, item_of, rows_of, tensor_groups
from share_registry.format.adapter_object import SideBits, bits_of_modules
from share_registry.format.layout import Layout
from share_registry.materialize.decoder import GroupedAdapter, Reader, StoredModules
from share_registry.memory import give_back
from share_registry.names import Digest
from share_registry.parallel import MAX_THREADS, ahead
from share_registry.registry.commands.coding import SerializedAdapter
from share_registry.stored import StoredAdapter

# Elements of a group: some ten modules, whose float64 rows pass through a cache one by one
_GROUP: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """What an adapter comes back as.

    Attributes:
        stored: What its object was parsed as; own rows may be zeros, where they are large.
        tensors_digest: Of the tensor file that export writes.
        error: Pooled relative error of the scaled dW.
        errors: That of each module.
        bits: Estimated of both factors of each module, None where it is kept bit for bit.
        norm: Frobenius norm of the scaled dW that the error is relative to.
        rows: Its modules as Gaussian rows; none where nothing is coded.
    """

    stored: StoredAdapter
    tensors_digest: Digest
    error: float
    errors: tuple[float, ...]
    bits: tuple[SideBits | None, ...]
    norm: float
    rows: Rows


# One module beside its source, and its bits
_Module = tuple[Comparison, Rows, SideBits | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _MeasuredGroup:
    """Some tensors of the file, by key, and their modules beside the source, by position."""

    tensors: dict[str, torch.Tensor]
    modules: dict[int, _Module]


def measure(
    reader: Reader, coded: SerializedAdapter, adapter: Adapter, pairs: Sequence[FactorPair]
) -> Fidelity:
    """Decode an adapter from its objects and compare it with its source.

    Args:
        reader: Reads what the objects refer to.
        coded: The objects.
        adapter: The source.
        pairs: Its modules.

    Raises:
        IntegrityError: nothing is coded, and yet a bit is lost (a defect).
    """
    give_back(adapter.raw_bytes)
    decoded = reader.beside(coded.objects).in_groups(coded.digest)
    scratches, is_coded = Scratches(), any(decoded.stored.modules)

    def measure_group(group: TensorGroup, stored: Sequence[StoredModules]) -> _MeasuredGroup:
        tensors = decoded.tensors(group, stored)
        if not is_coded:
            return _check_exact(tensors, adapter)
        return _compare(tensors, group, stored, adapter, pairs, scratches.own)

    groups = _ahead(decoded, measure_group, adapter)
    modules: dict[int, _Module] = {}
    tensors_digest = digest_in_order(
        adapter.layout, _in_file_order(adapter.layout, groups, modules)
    )
    in_order = [modules[position] for position in sorted(modules)]
    error, errors = pool([comparison for comparison, *_ in in_order])
    return Fidelity(
        stored=decoded.stored,
        tensors_digest=tensors_digest,
        error=error,
        errors=tuple(errors or [0.0] * len(pairs)),
        bits=tuple(bits for *_, bits in in_order) or (None,) * len(pairs),
        norm=_norm(adapter, pairs, [comparison.square for comparison, *_ in in_order]),
        rows=join_rows([rows for _, rows, _ in in_order]),
    )


def _ahead(
    decoded: GroupedAdapter,
    function: Callable[[TensorGroup, Sequence[StoredModules]], _MeasuredGroup],
    adapter: Adapter,
) -> Iterator[_MeasuredGroup]:
    """Yield what a function gives for all groups of an adapter's tensors, several at a time."""
    groups = tensor_groups(adapter.layout, elements=_GROUP)
    # expanded by this thread, group after group
    expanded = ((group, decoded.modules(group)) for group in groups)
    if len(groups) < 2:
        return starmap(function, expanded)
    return ahead(one_thread()(lambda item: function(*item)), expanded, threads=MAX_THREADS)


def _compare(
    tensors: dict[str, torch.Tensor],
    group: TensorGroup,
    stored: Sequence[StoredModules],
    adapter: Adapter,
    pairs: Sequence[FactorPair],
    scratch: Scratch,
) -> _MeasuredGroup:
    factors = adapter.layout.factors
    starts = list(accumulate((factor.experts for factor in factors), initial=0))
    decoded = {
        position: replace(pairs[position], a=a, b=b)
        for number in group.factors
        for position, (a, b) in enumerate(
            rows_of(adapter.layout, factors[number], tensors), starts[number]
        )
    }
    compared = [compare(pair, pairs[position], scratch) for position, pair in decoded.items()]
    rows = rows_of_modules([*decoded.values()], [grams for _, grams in compared])
    bits = bits_of_modules(chain(*stored))
    # Grams are given up: small, they would lie between what is large and is used again
    modules = zip([comparison for comparison, _ in compared], rows, bits, strict=True)
    return _MeasuredGroup(tensors=tensors, modules=dict(zip(decoded, modules, strict=True)))


def _check_exact(tensors: dict[str, torch.Tensor], adapter: Adapter) -> _MeasuredGroup:
    for key, tensor in tensors.items():
        ensure(
            item_of(key, tensor) == item_of(key, adapter.tensors[key]),
            IntegrityError(
                f"tensor {key!r} did not come back bit for bit from what would be stored.",
                hint="Nothing was written. This is a defect: please report it.",
            ),
        )
    return _MeasuredGroup(tensors=tensors, modules={})


def _in_file_order(
    layout: Layout, groups: Iterator[_MeasuredGroup], modules: dict[int, _Module]
) -> Iterator[torch.Tensor]:
    """Yield the tensors of the file; keep of the modules only what was measured, in `modules`."""
    waiting: dict[str, torch.Tensor] = {}
    for spec in layout.tensors:
        while spec.key not in waiting:
            group = next(groups)
            waiting |= group.tensors
            modules |= group.modules
        yield waiting.pop(spec.key)


def _norm(adapter: Adapter, pairs: Sequence[FactorPair], squares: Sequence[float]) -> float:
    """Return the norm of an adapter as PEFT reads it, the squares of whose pairs may be there."""
    function = function_pairs(adapter.config, adapter.layout, pairs)
    if len(squares) == len(pairs) and all(map(is_, function, pairs)):
        return sqrt(sum(squares))
    return norm(function)
