"""Coefficients alone.

The best approximation there is in the row spaces of a basis, decoded exactly, whatever it loses.
"""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings, strategies as st
from torch import Tensor

from share_registry.algebra.absorb import CodedAdapter, absorb
from share_registry.algebra.decode import decode_side
from share_registry.algebra.error import module_errors, pooled_error
from share_registry.algebra.project import project
from share_registry.names import Side
from share_registry.stored import StoredModule, StoredSide
from tests.algebra.adapters import Pair, demo_pairs, random_pairs

NEGLIGIBLE = 2.0**-13
"""Part of the whole that rounding coefficients may add to what projection loses."""
FLOAT32 = (torch.float32, torch.float32)
LARGEST = 1 << 20


def side(rows: Tensor) -> StoredSide:
    return StoredSide(
        previous=False,
        terms=(),
        scales=np.zeros(len(rows), np.float32),
        own=rows.round().to(torch.int32).numpy(),
    )


def module(a: Tensor, b: Tensor) -> StoredModule:
    return StoredModule(a=side(a), b=side(b), error=0.0)


def random_basis(
    pairs: list[Pair], *, k_a: int, k_b: int, seed: int = 0, size: float = 2e5
) -> list[StoredModule | None]:
    """Rows as a fit makes them: orthonormal directions, each times a factor of its own, rounded."""
    generator = torch.Generator().manual_seed(seed)

    def rows(k: int, width: int) -> Tensor:
        directions: Tensor = torch.linalg.qr(
            torch.randn(width, k, generator=generator, dtype=torch.float64)
        ).Q.mT
        return size * directions * torch.logspace(0, -3, k, dtype=torch.float64)[:, None]

    return [module(rows(k_a, pair.a.shape[1]), rows(k_b, pair.b.shape[1])) for pair in pairs]


def own_rows(pairs: list[Pair]) -> list[StoredModule | None]:
    """A basis that spans each module, up to rounding."""
    return [
        module(*(torch.linalg.qr(X.mT).Q.mT * LARGEST for X in (pair.a, pair.b))) for pair in pairs
    ]


def project_all(
    pairs: list[Pair],
    basis: list[StoredModule | None],
    *,
    pseudo_rank: int | None = None,
    dtypes: tuple[torch.dtype, torch.dtype] = FLOAT32,
) -> CodedAdapter:
    return project(
        pairs,
        basis=basis,
        dtypes=[dtypes] * len(pairs),
        factors=list(range(len(pairs))),
        pseudo_rank=pseudo_rank,
    )


def decode_pairs(
    pairs: list[Pair],
    coded: CodedAdapter,
    basis: list[StoredModule | None],
    dtype: torch.dtype = torch.float32,
) -> list[Pair]:
    result = []
    for pair, stored, block in zip(pairs, coded.modules, basis, strict=True):
        if stored is None:
            result.append(pair)
            continue
        decoded = [
            decode_side(
                stored.side(side_name),
                previous=None,
                blocks=[torch.from_numpy(block.side(side_name).own)]
                if block and stored.side(side_name).terms
                else [],
            )
            for side_name in (Side.A, Side.B)
        ]
        result.append(
            Pair(
                module=pair.module,
                a=decoded[0].to(dtype).double(),
                b=decoded[1].to(dtype).double(),
                scale=pair.scale,
            )
        )
    return result


def best(pair: Pair, block: StoredModule, pseudo_rank: int) -> Tensor:
    """Return the best dW of that rank whose rows and columns lie in the basis, as full matrices."""
    P_a, P_b = (
        torch.linalg.qr(torch.from_numpy(block.side(side_name).own).double().mT).Q
        for side_name in (Side.A, Side.B)
    )
    U, sigma, Vt = torch.linalg.svd(
        P_b @ (P_b.mT @ (pair.scale * pair.b.mT @ pair.a) @ P_a) @ P_a.mT
    )
    dW: Tensor = U[:, :pseudo_rank] @ torch.diag(sigma[:pseudo_rank]) @ Vt[:pseudo_rank]
    return dW


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    rank=st.integers(1, 6),
    k=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    pseudo_rank=st.integers(1, 6),
    width=st.integers(12, 40),
    height=st.integers(12, 40),
)
@example(seed=13638, rank=1, k=(1, 1), pseudo_rank=1, width=12, height=12)
def test_what_is_kept_is_the_best_there_is_in_the_basis(
    seed: int, rank: int, k: tuple[int, int], pseudo_rank: int, width: int, height: int
) -> None:
    pairs = random_pairs(seed, modules=2, rank=rank, width=width, height=height, scale=0.5)
    basis = random_basis(pairs, k_a=k[0], k_b=k[1], seed=seed)
    coded = project_all(pairs, basis, pseudo_rank=pseudo_rank)
    for pair, block, exported_pair in zip(
        pairs, basis, decode_pairs(pairs, coded, basis), strict=True
    ):
        assert block is not None
        whole = pair.scale * pair.b.mT @ pair.a
        wrong = torch.linalg.matrix_norm(pair.scale * exported_pair.b.mT @ exported_pair.a - whole)
        least = torch.linalg.matrix_norm(best(pair, block, pseudo_rank) - whole)
        assert float(wrong) <= float(least) + NEGLIGIBLE * float(torch.linalg.matrix_norm(whole))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_error_that_is_said_is_that_of_what_comes_back(dtype: torch.dtype) -> None:
    pairs = random_pairs(1, modules=3, rank=4, width=32, height=24, dtype=dtype)
    basis = random_basis(pairs, k_a=8, k_b=6)
    coded = project_all(pairs, basis, dtypes=(dtype, dtype))
    result = decode_pairs(pairs, coded, basis, dtype)
    assert coded.error == pytest.approx(pooled_error(result, pairs), rel=1e-12)
    for stored, error in zip(coded.modules, module_errors(result, pairs), strict=True):
        assert stored is not None
        assert error <= stored.error <= error * (1 + 2**-7)


def test_a_basis_that_spans_the_adapter_loses_nothing_to_speak_of() -> None:
    pairs = demo_pairs("wn-syn-ant", "v1")[:4]
    assert project_all(pairs, own_rows(pairs)).error < NEGLIGIBLE


def test_there_are_no_own_rows_and_no_more_directions_than_asked_for() -> None:
    pairs = random_pairs(2, modules=2, rank=5, width=32, height=24)
    for stored in project_all(pairs, random_basis(pairs, k_a=8, k_b=8), pseudo_rank=3).modules:
        assert stored is not None
        for factor in (stored.a, stored.b):
            assert not factor.own.any()
            assert not factor.scales[3:].any()
            assert not factor.terms[0].coefficients[3:].any()
            assert factor.terms[0].coefficients[:3].any()


@pytest.mark.parametrize(("k_a", "k_b"), [(0, 4), (4, 0), (0, 0)])
def test_a_module_without_directions_on_a_side_decodes_to_nothing(k_a: int, k_b: int) -> None:
    pairs = random_pairs(3, modules=2, rank=4, width=16, height=16)
    basis = random_basis(pairs, k_a=4, k_b=4)
    basis[0] = random_basis(pairs[:1], k_a=k_a, k_b=k_b)[0]
    coded = project_all(pairs, basis)
    assert coded.sources == (0,)
    first = decode_pairs(pairs, coded, basis)[0]
    assert not (first.b.mT @ first.a).any()


def test_a_module_that_the_basis_lacks_decodes_to_nothing() -> None:
    pairs = random_pairs(4, modules=1, rank=4, width=16, height=16)
    coded = project_all(pairs, [None])
    assert coded.sources == ()
    assert coded.error == pytest.approx(1.0)


def test_modules_without_effect_and_those_in_their_tensors_are_kept_verbatim() -> None:
    pairs = random_pairs(5, modules=3, rank=4, width=16, height=16)
    pairs[1] = Pair(module=pairs[1].module, a=pairs[1].a, b=torch.zeros_like(pairs[1].b))
    coded = project(
        pairs, basis=random_basis(pairs, k_a=4, k_b=4), dtypes=[FLOAT32] * 3, factors=[0, 0, 1]
    )
    assert [stored is None for stored in coded.modules] == [True, True, False]


@pytest.mark.parametrize("pseudo_rank", [1, 3])
def test_a_pseudo_rank_leaves_the_rows_past_it_empty_on_both_sides(pseudo_rank: int) -> None:
    pairs = random_pairs(6, modules=2, rank=5, width=64, height=48)
    coded = absorb(pairs, budget=0.7, dtypes=[FLOAT32] * 2, pseudo_rank=pseudo_rank)
    for stored in coded.modules:
        assert stored is not None
        for factor in (stored.a, stored.b):
            assert factor.own[:pseudo_rank].any()
            assert not factor.own[pseudo_rank:].any()


def test_what_a_pseudo_rank_cuts_off_is_part_of_the_error() -> None:
    pairs = random_pairs(7, modules=2, rank=5, width=64, height=48)
    coded = absorb(pairs, budget=0.7, dtypes=[FLOAT32] * 2, pseudo_rank=2)
    decoded = [
        Pair(
            module=pair.module,
            a=decode_side(stored.a, previous=None, blocks=[]).double(),
            b=decode_side(stored.b, previous=None, blocks=[]).double(),
        )
        for pair, stored in zip(pairs, coded.modules, strict=True)
        if stored is not None
    ]
    assert coded.error == pytest.approx(pooled_error(decoded, pairs), rel=1e-6)


def test_a_budget_that_a_pseudo_rank_cannot_meet_is_not_met() -> None:
    pairs = random_pairs(8, modules=2, rank=5, width=64, height=48)
    assert not any(absorb(pairs, budget=0.01, dtypes=[FLOAT32] * 2, pseudo_rank=2).modules)


def test_without_a_pseudo_rank_a_large_budget_drops_weak_rows_of_both_sides() -> None:
    pairs = random_pairs(9, modules=1, rank=8, width=64, height=48)
    stored = absorb(pairs, budget=0.5, dtypes=[FLOAT32]).modules[0]
    assert stored is not None
    alive = [factor.own.any(1) for factor in (stored.a, stored.b)]
    assert (alive[0] == alive[1]).all()
    assert 0 < alive[0].sum() < 8
