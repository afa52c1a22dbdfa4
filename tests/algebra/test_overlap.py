"""Overlap: products, distances and row spaces from small Grams are those of the dense matrices."""

import pytest
import torch
from torch import Tensor

from share_registry.algebra.comparison import (
    distances,
    orthonormal,
    products,
    products_with,
    row_overlap,
)
from share_registry.algebra.error import relative_change
from share_registry.names import Side
from tests.algebra.adapters import Pair, random_pairs

CLOSE = 1e-12
"""Sums of some thousand float64 products."""
ROOT = 1e-6
"""Near 0 a distance is the root of a difference of squares."""


def collection() -> list[list[Pair]]:
    """Adapters of different ranks and scales; the last has one module fewer and one of its own."""
    whole = [
        random_pairs(seed, modules=3, rank=rank, width=40, height=24, scale=scale)
        for seed, rank, scale in ((0, 4, 1.0), (1, 2, 2.0), (2, 6, 0.5))
    ]
    extra = Pair(module="other", a=torch.ones(1, 8).double(), b=torch.ones(1, 8).double())
    return [*whole, [*whole[0][:2], extra]]


def dense(pairs: list[Pair]) -> Tensor:
    """All modules that any adapter has, one after another."""
    by_module = {pair.module: pair.scale * pair.b.T @ pair.a for pair in pairs}
    empty = {
        **{f"m{number:04d}": torch.zeros(24, 40).double() for number in range(3)},
        "other": torch.zeros(8, 8).double(),
    }
    return torch.cat([by_module.get(name, nothing).flatten() for name, nothing in empty.items()])


def transform(pairs: list[Pair]) -> list[Pair]:
    transformed = []
    for number, pair in enumerate(pairs):
        G = (
            torch.randn(
                len(pair.a),
                len(pair.a),
                generator=torch.Generator().manual_seed(number),
                dtype=torch.float64,
            )
            + 4 * torch.eye(len(pair.a)).double()
        )
        transformed.append(
            Pair(
                module=pair.module, a=G @ pair.a, b=torch.linalg.inv(G).T @ pair.b, scale=pair.scale
            )
        )
    return transformed


def test_products_are_those_of_dense_products() -> None:
    flat = torch.stack([dense(pairs) for pairs in collection()])
    assert torch.allclose(products(collection()), flat @ flat.T, rtol=CLOSE, atol=CLOSE)


def test_products_of_two_agree_with_those_of_many() -> None:
    adapters = collection()
    assert products_with(adapters[0], adapters[3]) == pytest.approx(
        float(products(adapters)[0, 3]), rel=CLOSE
    )


def test_distances_are_relative_to_the_first() -> None:
    adapters = collection()
    distance = distances(products(adapters))
    for row in range(4):
        for column in range(4):
            assert float(distance[row, column]) == pytest.approx(
                relative_change(adapters[row], adapters[column]), abs=ROOT
            )


def test_another_gauge_is_no_other_adapter() -> None:
    adapters = collection()
    gram = products([adapters[0], transform(adapters[0])])
    assert float(distances(gram)[0, 1]) < ROOT
    assert float(gram[0, 1] / gram[0, 0]) == pytest.approx(1.0, abs=CLOSE)
    overlap, _ = row_overlap([adapters[0], transform(adapters[0])], Side.A)
    assert float(overlap[0, 1]) == pytest.approx(1.0, abs=CLOSE)


def test_an_adapter_that_does_nothing_is_near_nothing() -> None:
    idle = [Pair(module="m0000", a=torch.ones(2, 40).double(), b=torch.zeros(2, 24).double())]
    gram = products([idle, idle, collection()[0]])
    assert distances(gram)[0].tolist() == [0.0, 0.0, float("inf")]
    assert gram[0].tolist() == [0.0, 0.0, 0.0]


def test_overlap_is_the_root_mean_square_cosine_of_principal_angles() -> None:
    rows = torch.eye(8).double()
    two_rows = [Pair(module="m", a=rows[:2], b=rows[:2])]
    half = [Pair(module="m", a=rows[1:5], b=rows[4:8])]
    overlap, chance = row_overlap([two_rows, half], Side.A)
    assert float(overlap[0, 1]) == pytest.approx(0.5**0.5)
    assert float(chance[0, 1]) == pytest.approx(0.5**0.5)
    assert float(row_overlap([two_rows, half], Side.B)[0][0, 1]) == 0.0


def test_chance_is_what_random_rows_have() -> None:
    overlap, chance = row_overlap(
        [random_pairs(seed, modules=8, rank=8, width=256, height=8) for seed in range(2)], Side.A
    )
    assert float(overlap[0, 1]) == pytest.approx(
        float(chance[0, 1]), rel=0.1
    )  # 8 modules of 64 angles


def test_no_module_in_common_is_no_overlap() -> None:
    narrow, wide = (random_pairs(0, modules=1, rank=2, width=width, height=8) for width in (16, 24))
    overlap, chance = row_overlap([narrow, wide], Side.A)
    assert (float(overlap[0, 1]), float(chance[0, 1])) == (0.0, 0.0)


def test_dependent_rows_span_no_more() -> None:
    rows = torch.randn(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert orthonormal(torch.cat([rows, rows.sum(0, keepdim=True)])).shape == (2, 16)
    assert orthonormal(torch.zeros(3, 16).double()).shape == (0, 16)
