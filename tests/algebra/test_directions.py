"""Directions from Grams and coefficients.

Those of the full decomposition of all energy-weighted stacked factors, at a cost that does not know
how many tasks there are.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from share_registry.algebra.directions import (
    Frame,
    Moments,
    TaskCoefficients,
    axes,
    choose_size,
    count_capturing,
    extend,
    frame,
    leading_spectrum,
    round_rows,
    savings,
    spectrum,
)
from tests.algebra.adapters import planted

ENERGY = 1e-10
"""Relative to the whole: a promise."""
ANGLE = 1e-6
"""Of principal angles, where the spectrum has a gap: a promise."""
GAP = 1e-3
"""Relative to the largest energy: below it the directions are not determined."""
EXACT = 1e-12
"""A few roundings of numbers near 1."""
FITTED = 3**0.5
"""Measured error over the one asked for.

No rounding error is above half a step, which is this many times what they are on average.
"""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One side of some tasks: coefficients (r, K) over rows in use (K, m)."""

    K: list[Tensor]
    rows: Tensor

    @property
    def factors(self) -> list[Tensor]:
        return [K @ self.rows for K in self.K]

    @property
    def tasks(self) -> tuple[list[Tensor], Frame]:
        coordinates = frame(self.rows)
        return [K @ coordinates.root for K in self.K], coordinates


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def factor(
    generator: torch.Generator, *, ranks: list[int], rows: int, width: int, dependent: bool
) -> Factor:
    """Integer rows of very different sizes and coefficients that undo the sizes.

    Blocks of several adapters and a basis are such rows.
    """
    sizes = 2.0 ** torch.randint(2, 20, (rows, 1), generator=generator).double()
    R = (normal(generator, rows, width) * sizes).round()
    if dependent and rows > 2:
        R[-1], sizes[-1] = R[0] - R[1], sizes[:2].max()
        R[1] = 0.0
    return Factor(K=[normal(generator, rank, rows) / sizes.mT for rank in ranks], rows=R)


def moments(
    a: Factor, b: Factor, weights: list[float]
) -> tuple[Moments, Frame, Frame, list[TaskCoefficients]]:
    (A, frame_a), (B, frame_b) = a.tasks, b.tasks
    tasks = [
        TaskCoefficients(A=K_a, B=K_b, weight=weight)
        for K_a, K_b, weight in zip(A, B, weights, strict=True)
    ]
    sums = Moments.empty(frame_a.root.shape[1], frame_b.root.shape[1])
    for task in tasks:
        sums.add([task])
    return sums, frame_a, frame_b, tasks


def full(a: list[Tensor], b: list[Tensor], weights: list[float]) -> tuple[Tensor, Tensor]:
    """Return energies and directions of side a from all factors, stacked.

    Each row weighed by the other side.
    """
    stack = torch.cat(
        [
            weight**0.5 * torch.linalg.qr(B.mT, mode="r").R @ A
            for A, B, weight in zip(a, b, weights, strict=True)
        ]
    )
    _, sigma, Vt = torch.linalg.svd(stack, full_matrices=False)
    return sigma.square(), Vt


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 10**6),
    ranks=st.lists(st.integers(1, 5), min_size=1, max_size=7),
    rows=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    width=st.integers(2, 30),
    height=st.integers(2, 30),
    dependent=st.booleans(),
    repeated=st.booleans(),
)
def test_directions_and_energies_are_those_of_all_factors_stacked(
    seed: int,
    ranks: list[int],
    rows: tuple[int, int],
    width: int,
    height: int,
    dependent: bool,
    repeated: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = factor(generator, ranks=ranks, rows=rows[0], width=width, dependent=dependent)
    b = factor(generator, ranks=ranks, rows=rows[1], width=height, dependent=False)
    if repeated:
        a, b = (replace(side, K=[*side.K, side.K[0]]) for side in (a, b))
    weights = [0.5 + number for number in range(len(a.K))]
    sums, frame_a, frame_b, _ = moments(a, b, weights)
    for G, coordinates, this, opposite in ((sums.a, frame_a, a, b), (sums.b, frame_b, b, a)):
        energies, U = spectrum(G)
        expected, Vt = full(this.factors, opposite.factors, weights)
        count = min(len(energies), len(expected))
        total = float(expected.sum())
        assert float((energies[:count] - expected[:count]).abs().max()) <= ENERGY * total
        assert float(expected[count:].sum()) <= ENERGY * total
        Q = coordinates.directions(U)
        for k in range(1, count + 1):
            after = expected[k] if k < len(expected) else 0.0
            if float(expected[k - 1] - after) >= GAP * float(expected[0]):
                outside = Q[:k] - (Q[:k] @ Vt[:k].mT) @ Vt[:k]
                assert float(torch.linalg.matrix_norm(outside, 2)) < ANGLE
                assert torch.allclose(
                    Q[:k] @ Q[:k].mT, torch.eye(k, dtype=torch.float64), atol=ANGLE
                )


@pytest.mark.parametrize("tiny", [1e-3, 1e-4, 1e-5])
def test_coordinates_are_orthonormal_where_rows_nearly_depend_on_one_another(tiny: float) -> None:
    generator = torch.Generator().manual_seed(3)
    R = normal(generator, 6, 40)
    R = (
        torch.cat([R, R + tiny * normal(generator, 6, 40)])
        * 2.0 ** torch.randint(0, 20, (12, 1), generator=generator).double()
    )
    coordinates = frame(R)
    E = coordinates.back @ R
    assert torch.allclose(E @ E.mT, torch.eye(12, dtype=torch.float64), atol=ANGLE)
    assert torch.allclose(coordinates.root @ E, R, rtol=0, atol=ANGLE * tiny * float(R.abs().max()))


def independent_of(R: Tensor, more: Tensor) -> Tensor:
    """Return rows that lie in no direction of R."""
    Q: Tensor = torch.linalg.qr(R.mT)[0]
    apart: Tensor = more - (more @ Q) @ Q.mT
    return apart


@given(
    seed=st.integers(0, 2**31),
    old=st.integers(1, 9),
    new=st.integers(0, 6),
    dependent=st.integers(0, 6),
)
@settings(max_examples=200)
def test_a_frame_that_is_extended_keeps_its_directions_and_spans_the_new_rows(
    seed: int, old: int, new: int, dependent: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    R = factor(generator, ranks=[], rows=old, width=30, dependent=False).rows
    R = torch.cat([R, normal(generator, 1, old) @ R])
    more = factor(generator, ranks=[], rows=new, width=30, dependent=False).rows
    more[: min(new, dependent)] = normal(generator, min(new, dependent), old + 1) @ R
    before = frame(R)
    rows = torch.cat([R, more])
    wider = extend(before.back, rows)
    assert wider is not None
    E = wider.back @ rows
    q = len(before.back)
    assert torch.allclose(E[:q], before.back @ R, rtol=0, atol=EXACT)
    assert torch.allclose(E @ E.mT, torch.eye(len(E), dtype=torch.float64), atol=ENERGY)
    assert len(E) == q + max(0, new - dependent)
    assert torch.allclose(wider.root @ E, rows, rtol=0, atol=ENERGY * float(rows.abs().max()))


def test_new_rows_that_hardly_differ_from_known_ones_make_no_long_coefficients() -> None:
    generator = torch.Generator().manual_seed(5)
    R = normal(generator, 6, 40)
    apart = independent_of(R, normal(generator, 2, 40))
    before = frame(R).back
    assert extend(before, torch.cat([R, R[:2] + 1e-2 * apart])) is not None
    assert extend(before, torch.cat([R, R[:2] + 1e-5 * apart])) is None
    same = extend(before, torch.cat([R, R[:2] + 1e-9 * apart]))
    assert same is not None
    assert same.back.shape == (6, 8)


@pytest.mark.parametrize(
    ("old", "new", "directions"),
    [
        ("zeros", "zeros", 0),
        ("zeros", "rows", 2),
        ("rows", "zeros", 2),
        ("rows", "same", 2),
        ("rows", "rows", 4),
    ],
)
def test_a_frame_is_extended_from_and_by_rows_of_zeros(old: str, new: str, directions: int) -> None:
    rows = normal(torch.Generator().manual_seed(6), 4, 8)
    rows_of = {
        "zeros": torch.zeros(2, 8, dtype=torch.float64),
        "rows": rows[:2],
        "same": 2 * rows[:2],
    }
    R, more = rows_of[old], rows[2:] if (old, new) == ("rows", "rows") else rows_of[new]
    wider = extend(frame(R).back, torch.cat([R, more]))
    assert wider is not None
    assert wider.back.shape == (directions, 4)
    assert torch.allclose(wider.root @ (wider.back @ wider.rows), wider.rows, rtol=0, atol=EXACT)


def test_the_gauge_of_a_task_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (factor(generator, ranks=[3, 3], rows=8, width=20, dependent=False) for _ in range(2))
    M = normal(generator, 3, 3)
    turned_a = replace(a, K=[M @ a.K[0], a.K[1]])
    turned_b = replace(b, K=[torch.linalg.inv(M).mT @ b.K[0], b.K[1]])
    (plain, *_), (turned, *_) = moments(a, b, [1.0, 2.0]), moments(turned_a, turned_b, [1.0, 2.0])
    assert torch.allclose(plain.a, turned.a, rtol=0, atol=ENERGY * float(plain.a.trace()))
    assert torch.allclose(plain.b, turned.b, rtol=0, atol=ENERGY * float(plain.b.trace()))


def test_more_rows_than_columns_may_be_seen_from_the_axes_themselves() -> None:
    generator = torch.Generator().manual_seed(4)
    a, b = (
        factor(generator, ranks=[3, 4, 5], rows=24, width=10, dependent=False) for _ in range(2)
    )
    sums = Moments.empty(10, 10)
    for A, B in zip(a.factors, b.factors, strict=True):
        sums.add([TaskCoefficients(A=A, B=B, weight=1.0)])
    (energies, U), (expected, Vt) = spectrum(sums.a), full(a.factors, b.factors, [1.0] * 3)
    assert torch.allclose(energies, expected, rtol=0, atol=ENERGY * float(expected.sum()))
    assert torch.allclose(
        (axes(10).directions(U) * Vt).sum(-1).abs(),
        torch.ones(10, dtype=torch.float64),
        rtol=0,
        atol=ANGLE,
    )


def test_a_task_taken_out_leaves_the_moments_of_the_others() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (factor(generator, ranks=[2, 3, 4], rows=9, width=16, dependent=False) for _ in range(2))
    remaining, *_, tasks = moments(a, b, [1.0, 2.0, 3.0])
    remaining.add([replace(tasks[1], weight=-tasks[1].weight)])
    others, *_ = moments(replace(a, K=[a.K[0], a.K[2]]), replace(b, K=[b.K[0], b.K[2]]), [1.0, 3.0])
    assert torch.allclose(remaining.a, others.a, rtol=0, atol=EXACT * float(others.a.trace()))
    assert torch.allclose(remaining.b, others.b, rtol=0, atol=EXACT * float(others.b.trace()))


def test_what_captures_a_share_of_the_energy_is_the_fewest_directions() -> None:
    energies = torch.tensor([6.0, 3.0, 1.0, 0.0], dtype=torch.float64)
    assert [count_capturing(energies, share) for share in (0.5, 0.6, 0.61, 0.9, 0.91, 1.0)] == [
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    assert count_capturing(torch.zeros(3, dtype=torch.float64), 0.5) == 0


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 12),
    width=st.integers(16, 200),
    precision=st.floats(2.0**-12, 0.1),
    decay=st.floats(0.0, 4.0),
)
def test_rounding_a_basis_makes_the_error_asked_for_and_no_large_numbers(
    seed: int, k: int, width: int, precision: float, decay: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(normal(generator, width, k)).Q.mT
    energies = torch.logspace(0, -decay, k, dtype=torch.float64)
    q = round_rows(Q, energies, precision=precision).double()
    assert int(q.abs().max()) < 2**20
    fitted = (Q * q).sum(-1, keepdim=True) / q.square().sum(-1, keepdim=True) * q
    error = float(((fitted - Q).square().sum(-1) * energies).sum() / energies.sum()) ** 0.5
    assert error <= FITTED * precision


def test_no_direction_gives_no_row() -> None:
    assert round_rows(
        torch.zeros((0, 8), dtype=torch.float64), torch.zeros(0, dtype=torch.float64), precision=0.1
    ).shape == (0, 8)


def count_paying(pairs: list[tuple[Tensor, Tensor]], *, budget: float) -> list[int]:
    """Return how many directions pay per side for tasks that a basis is fitted to all of."""
    frames = [frame(torch.cat([pair[side] for pair in pairs])) for side in (0, 1)]
    starts = torch.tensor([0, *(len(pair[0]) for pair in pairs)]).cumsum(0).tolist()
    tasks = [
        TaskCoefficients(A=frames[0].root[s:e], B=frames[1].root[s:e], weight=1.0)
        for s, e in pairwise(starts)
    ]
    sums = Moments.empty(frames[0].root.shape[1], frames[1].root.shape[1])
    for task in tasks:
        sums.add([task])
    spectra = (spectrum(sums.a), spectrum(sums.b))
    widths = (frames[0].rows.shape[1], frames[1].rows.shape[1])
    saved = savings(tasks, (spectra[0][1], spectra[1][1]), widths=widths, budget=budget)
    return [
        choose_size(saved[side], spectra[side][0], width=widths[side], precision=budget / 4)
        for side in (0, 1)
    ]


def test_as_many_directions_pay_as_are_shared() -> None:
    tasks = planted(24, modules=1, rank=4, width=256, shared=8, noise=0.01)
    assert count_paying([(pairs[0].a, pairs[0].b) for pairs in tasks], budget=0.05) == [8, 8]


def test_no_direction_pays_where_nothing_is_shared() -> None:
    generator = torch.Generator().manual_seed(2)
    assert count_paying(
        [(normal(generator, 4, 256), normal(generator, 4, 256)) for _ in range(8)], budget=0.05
    ) == [0, 0]


@pytest.mark.parametrize("shared", [40, 60])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_leading_directions_of_a_space_that_is_soon_spent(shared: int, noise: float) -> None:
    # the Krylov space outgrows what there is: what is left of a block is rounding
    generator = torch.Generator().manual_seed(shared)
    rows = normal(generator, 600, shared) @ normal(generator, shared, 512)
    rows += noise * rows.square().mean().sqrt() * normal(generator, 600, 512)
    G = rows.mT @ rows
    (energies, U), (expected, _) = leading_spectrum(G, 20), spectrum(G)
    assert torch.allclose(energies, expected[:20], rtol=1e-6)
    assert float(torch.trace(U.mT @ G @ U)) == pytest.approx(float(expected[:20].sum()), rel=1e-6)


@pytest.mark.parametrize(("support", "rank"), [(30, 30), (120, 90), (200, 20)])
@pytest.mark.parametrize("k", [4, 16, 24])
def test_leading_directions_where_most_columns_are_zero(support: int, rank: int, k: int) -> None:
    # as of rows of a few tokens, or pruned columns: what is made of nothing must not count twice
    generator = torch.Generator().manual_seed(support)
    rows = torch.zeros(300, 512, dtype=torch.float64)
    columns = torch.randperm(512, generator=generator)[:support]
    rows[:, columns] = normal(generator, 300, rank) @ normal(generator, rank, support)
    G = rows.mT @ rows
    (energies, U), (expected, _) = leading_spectrum(G, k), spectrum(G)
    assert torch.allclose(energies, expected[:k], rtol=1e-6)
    assert torch.allclose(U.mT @ U, torch.eye(k, dtype=torch.float64), atol=1e-9)
    assert float(torch.trace(U.mT @ G @ U)) == pytest.approx(float(expected[:k].sum()), rel=1e-6)


@pytest.mark.parametrize("tail", ["flat", "falling", "none", "huge"])
@pytest.mark.parametrize("k", [4, 24])
def test_leading_directions_capture_what_the_whole_decomposition_does(tail: str, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    rows = torch.linalg.qr(normal(generator, 512, 512)).Q
    strong = torch.logspace(0, -1, 16, dtype=torch.float64)
    rest = {
        # as noise has it, where directions are hardly told apart
        "flat": 1e-3 + 1e-4 * torch.rand(496, generator=generator, dtype=torch.float64),
        "falling": torch.logspace(-1.3, -8, 496, dtype=torch.float64),
        "none": torch.zeros(496, dtype=torch.float64),
        "huge": 1e-6 * torch.ones(496, dtype=torch.float64),
    }[tail]
    energies = torch.cat([strong, rest]) * (1e60 if tail == "huge" else 1.0)
    G = (rows.mT * energies) @ rows
    (found, U), (expected, _) = leading_spectrum(G, k), spectrum(G)
    assert U.shape == (512, k)
    assert torch.allclose(U.mT @ U, torch.eye(k, dtype=torch.float64), atol=1e-9)
    assert float(found.sum()) == pytest.approx(float(expected[:k].sum()), rel=1e-6)
    assert float(torch.trace(U.mT @ G @ U)) == pytest.approx(float(found.sum()), rel=1e-9)
    # those of the strong ones, which are told apart
    told = min(k, 16)
    angles = torch.linalg.svdvals(rows[:told] @ U[:, :told])
    assert float(angles.amin()) > 1 - 1e-9


def test_leading_directions_of_few_are_those_of_the_whole_decomposition() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = normal(generator, 9, 40)
    (found, U), (expected, V) = leading_spectrum(rows.mT @ rows, 3), spectrum(rows.mT @ rows)
    assert torch.equal(found, expected[:3])
    assert torch.equal(U, V[:, :3])


@pytest.mark.parametrize("size", [1.0, 1e20, 1e-20])
def test_moments_of_float32_are_those_of_float64(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    tasks = [
        TaskCoefficients(
            A=normal(generator, rank, 40) * size,
            B=normal(generator, rank, 30) * size,
            # at unit weight every task has an energy of 1
            weight=size**-4,
        )
        for rank in (1, 4, 4)
    ]
    fine, coarse = Moments.empty(40, 30), Moments.empty(40, 30)
    coarse = Moments(coarse.a.float(), coarse.b.float())
    for sums in (fine, coarse):
        sums.add(tasks)
        sums.add([replace(tasks[0], weight=-tasks[0].weight)])
    for one, other in ((fine.a, coarse.a), (fine.b, coarse.b)):
        assert float((one - other).norm() / one.norm()) < 1e-6
