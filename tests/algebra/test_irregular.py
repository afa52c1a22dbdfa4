"""No error of linear algebra gets out, whatever factors are: dependent, equal, zero, huge, tiny."""

import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from torch import Tensor

from share_registry.algebra.comparison import (
    directions,
    left_out,
    orthonormal,
    products,
    row_overlap,
    stack,
    weighted,
)
from share_registry.algebra.directions import Moments, TaskCoefficients, extend, frame, spectrum
from share_registry.algebra.error import module_errors, pooled_error
from share_registry.algebra.gauge import Overlap, align, balance
from share_registry.algebra.merge_methods import MergeRule, Method, merge_rows
from share_registry.algebra.project import project
from share_registry.names import Side
from tests.algebra.adapters import Pair, Shelf

BUDGET = 0.02
WIDTH = 12
KEPT = 2e-8
"""What another gauge may change of the product, and rounding as much again."""
FLOAT32 = (torch.float32, torch.float32)
KINDS = (
    *("dependent", "duplicate", "equal rows", "zero rows", "zero", "noisy"),
    *("huge", "tiny", "uneven"),
)
adapters = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 3)), min_size=3, max_size=5
).map(lambda drawn: [irregular(kind, seed) for kind, seed in drawn])


def irregular(kind: str, seed: int, rank: int = 3) -> list[Pair]:
    """Two modules; all adapters of a kind are made of the same rows."""
    shared = torch.Generator().manual_seed(7)
    generator = torch.Generator().manual_seed(seed)
    modules = []
    for number in range(2):
        a, b = (
            _rows(kind, torch.randn(rank, WIDTH + side, generator=shared), generator)
            for side in range(2)
        )
        modules.append(Pair(module=f"m{number}", a=a.double(), b=b.double()))
    return modules


def _rows(kind: str, basis: Tensor, generator: torch.Generator) -> Tensor:
    rank = len(basis)
    mixed = torch.randn(rank, rank, generator=generator) @ basis
    match kind:
        case "duplicate":
            return basis
        case "equal rows":
            return mixed[:1].repeat(rank, 1)
        case "zero rows":
            mixed[rank // 2 :] = 0.0
        case "zero":
            mixed[:] = 0.0
        case "noisy":
            return basis + 1e-7 * mixed
        case "huge":
            return mixed * 1e20
        case "tiny":
            return mixed * 1e-30
        case "uneven":
            return mixed * torch.logspace(-15, 15, rank)[:, None]
    return mixed


@settings(deadline=None, max_examples=8)
@given(committed=adapters, continued=st.booleans())
def test_adapters_are_coded_within_their_budget(
    committed: list[list[Pair]], continued: bool
) -> None:
    shelf = Shelf(budget=BUDGET)
    previous = None
    for pairs in committed:
        kept = shelf.add(pairs, previous=previous)
        assert pooled_error(kept.exported, pairs) <= BUDGET
        previous = kept if continued and all(kept.absorbed.modules) else None


@settings(deadline=None, max_examples=40)
@given(collection=adapters)
@example(collection=[irregular("uneven", 0), irregular("dependent", 0)])
def test_a_gauge_keeps_the_product(collection: list[list[Pair]]) -> None:
    (first, *_), (earlier, *_) = collection[:2]
    X_a, X_b, _ = balance(first.a[None], first.b[None])
    M_a, M_b = align(Overlap.of(X_a, earlier.a[None]), Overlap.of(X_b, earlier.b[None]))
    for a, b in ((X_a, X_b), (M_a @ X_a, M_b @ X_b)):
        (error,) = module_errors([Pair(module=first.module, a=a[0], b=b[0])], [first])
        assert error <= KEPT


@settings(deadline=None, max_examples=60)
@given(collection=adapters)
def test_directions_of_any_rows_are_orthonormal(collection: list[list[Pair]]) -> None:
    blocks = [pairs[0].a for pairs in collection]
    first = frame(blocks[0])
    whole = extend(first.back, torch.cat(blocks[:2])) or frame(torch.cat(blocks[:2]))
    for framed in (first, whole):
        E = framed.back @ framed.rows
        assert torch.allclose(E @ E.mT, torch.eye(len(E), dtype=torch.float64), atol=1e-9)
        moments = Moments.empty(len(E), len(E))
        moments.add([TaskCoefficients(A=framed.root, B=framed.root, weight=1.0)])
        energies, U = spectrum(moments.a)
        assert bool(energies.isfinite().all())
        assert bool(framed.directions(U).isfinite().all())


@settings(deadline=None, max_examples=10)
@given(collection=adapters, budget=st.sampled_from([0.5, 1e-3]))
def test_any_adapter_is_projected_onto_any_rows(
    collection: list[list[Pair]], budget: float
) -> None:
    shelf = Shelf(budget=budget, references=False)
    basis = shelf.add(collection[0]).stored.modules
    for pairs in collection[1:]:
        coded = project(pairs, basis=basis, dtypes=[FLOAT32] * 2, factors=[0, 1])
        assert 0.0 <= coded.error < torch.inf


@pytest.mark.parametrize("method", ["linear", "ties", "dare"])
@settings(deadline=None, max_examples=25)
@given(collection=adapters)
def test_any_updates_are_merged(method: Method, collection: list[list[Pair]]) -> None:
    rule = MergeRule(method=method, density=1.0 if method == "linear" else 0.5)
    pairs = [pairs[0] for pairs in collection]
    a, b = merge_rows(pairs, [1.0] * len(pairs), module="m", rule=rule)
    assert bool(a.isfinite().all())
    assert bool(b.isfinite().all())


@settings(deadline=None, max_examples=40)
@given(collection=adapters)
def test_any_adapters_are_compared(collection: list[list[Pair]]) -> None:
    assert bool(products(collection).isfinite().all())
    parts = [weighted(pairs) for pairs in collection]
    for side in Side:
        overlap, _ = row_overlap(collection, side)
        assert bool(overlap.isfinite().all())
        rows = [modules["m0"].side(side) for modules in parts if "m0" in modules]
        if rows:
            assert bool(stack(rows).energies.isfinite().all())
            Q = directions(rows, 4)
            assert torch.allclose(Q @ Q.mT, torch.eye(len(Q), dtype=torch.float64), atol=1e-6)
    for pairs in collection:
        Q = orthonormal(pairs[0].a)
        assert torch.allclose(Q @ Q.mT, torch.eye(len(Q), dtype=torch.float64), atol=1e-9)
    for modules in parts:
        errors, chance = left_out(modules, [rest for rest in parts if rest is not modules])
        assert all(0.0 <= error <= 1.0 for error in (*errors, *chance))
