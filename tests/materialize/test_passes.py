"""A pass over resident rows: exact, the bytes of the reference reader.

Fast, within the bound of docs/materializer.md. Over every kind of stored adapter.
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray

from share_registry.errors import IntegrityError
from share_registry.exchange.tensors import TORCH, item_of
from share_registry.format import basis_object
from share_registry.materialize.bank import Bank
from share_registry.materialize.decoder import Reader
from share_registry.materialize.device import Buffers, DeviceTarget, Recycled
from share_registry.materialize.exact import ExactPass, exact_recipe_of
from share_registry.materialize.factors import Factors
from share_registry.materialize.fast import Pass, RepeatedPass
from share_registry.materialize.recipe import recipe_of
from share_registry.names import Digest, Side
from share_registry.stored import StoredBasis
from tests.materialize.stored import Maker, family

UNIT = {torch.float64: 0.0, torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""Unit roundoff of results narrower than float32."""
SMALLEST = {torch.float64: 0.0, torch.float32: 0.0, torch.bfloat16: 0.0, torch.float16: 2.0**-24}
"""Spacing of subnormal numbers that results may fall among."""
SEEDS = st.integers(0, 2**32 - 1)
MOST = (1 << 23) - 1
"""The largest stored integer."""


def materialize(
    maker: Maker,
    digests: Sequence[Digest],
    *,
    exact: bool,
    dtype: torch.dtype | None = None,
    scratch: int | None = None,
) -> dict[Digest, Factors]:
    target = DeviceTarget(torch.device("cpu"), dtype=dtype, exact=exact)
    target.scratch_numbers = scratch or target.scratch_numbers
    buffers = Buffers(target.device)
    if exact:
        loaded, left = Bank(
            lambda: Reader(maker.memory), exact_recipe_of, target, limit_bytes=None
        ).hold(digests)
        work: ExactPass | Pass = ExactPass(loaded, target, buffers)
    else:
        fast, left = Bank(lambda: Reader(maker.memory), recipe_of, target, limit_bytes=None).hold(
            digests
        )
        work = Pass(fast, target, buffers)
    assert not left
    work.fill()
    return work.output.factors()


def magnitude(
    maker: Maker, digest: Digest, module: str, side: Side
) -> tuple[NDArray[np.float64], int, int, int]:
    """Return S, the sum of the absolute values that a factor sums up.

    And of how many block rows, terms and versions that is.
    """
    stored = maker.stored[digest]
    position = [shape.module for shape in maker.layouts[digest].modules()].index(module)
    stored_module = stored.modules[position]
    if stored_module is None:
        return (
            np.abs(
                Reader(maker.memory)
                .rows(digest)[position][0 if side is Side.A else 1]
                .double()
                .numpy()
            ),
            0,
            0,
            1,
        )
    of = stored_module.side(side)
    total, rows, terms, versions = np.abs(of.own).astype(np.float64), 0, len(of.terms), 1
    for term in of.terms:
        block = maker.block(stored.sources[term.source], module, side)
        assert block is not None
        total += 2.0**term.exponent * (np.abs(term.coefficients).astype(np.float64) @ np.abs(block))
        rows += len(block)
    total *= of.scales[:, None].astype(np.float64)
    if of.previous and stored.previous is not None:
        before = magnitude(maker, stored.previous, module, side)
        total, rows, terms, versions = (
            total + before[0],
            rows + before[1],
            terms + before[2],
            versions + before[3],
        )
    return total, rows, terms, versions


def within_bound(maker: Maker, digest: Digest, factors: Factors, dtype: torch.dtype | None) -> bool:
    reader, layout = Reader(maker.memory), maker.layouts[digest]
    expected = reader.tensors(digest)
    for factor in layout.factors:
        for position, side in ((factor.a, Side.A), (factor.b, Side.B)):
            spec = layout.tensors[position]
            kind = dtype or TORCH[spec.dtype]
            total, rows, terms, versions = magnitude(maker, digest, factor.module, side)
            relative = 1.01 * (rows + terms + 3 * versions + 4) * 2.0**-24 + 2 * max(
                UNIT[kind], UNIT[TORCH[spec.dtype]]
            )
            limit = (
                relative * (total if side is Side.A else total.T)
                + SMALLEST[kind]
                + SMALLEST[TORCH[spec.dtype]]
            )
            if not bool(
                (
                    np.abs(factors[spec.key].double().numpy() - expected[spec.key].double().numpy())
                    <= limit
                ).all()
            ):
                return False
    return True


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, data=st.data())
def test_exact_results_are_the_bytes_of_the_reference_reader(
    seed: int, data: st.DataObject
) -> None:
    maker, digests = family(seed)
    order = data.draw(st.permutations(digests))
    scratch = data.draw(st.sampled_from([1, 300, 1 << 18]))
    results, reader = materialize(maker, order, exact=True, scratch=scratch), Reader(maker.memory)
    for digest in digests:
        expected = reader.tensors(digest)
        assert list(results[digest]) == list(expected)
        for key, tensor in expected.items():
            same = results[digest][key]
            assert (same.dtype, same.shape) == (tensor.dtype, tensor.shape)
            assert item_of(key, same) == item_of(key, tensor)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, data=st.data())
def test_fast_results_are_within_the_bound(seed: int, data: st.DataObject) -> None:
    maker, digests = family(seed)
    chosen = data.draw(st.permutations(digests))[: data.draw(st.integers(1, len(digests)))]
    dtype = data.draw(st.sampled_from([None, torch.float32, torch.bfloat16]))
    results = materialize(
        maker,
        chosen,
        exact=False,
        dtype=dtype,
        scratch=data.draw(st.sampled_from([1, 300, 1 << 18])),
    )
    for digest in chosen:
        assert results[digest]["head"].equal(
            Reader(maker.memory).tensors(digest)["head"].to(dtype or torch.float32)
        )
        assert within_bound(maker, digest, results[digest], dtype)


def test_the_bound_is_one_that_a_wrong_scale_breaks() -> None:
    maker, digests = family(3)
    results = materialize(maker, digests, exact=False)
    assert within_bound(maker, digests[1], results[digests[1]], None)
    for key in results[digests[1]]:
        results[digests[1]][key].mul_(1.001)
    assert not within_bound(maker, digests[1], results[digests[1]], None)


def test_adapters_over_one_basis_are_one_product() -> None:
    maker = Maker(1)
    basis = maker.basis(uniform=True)
    target = DeviceTarget(torch.device("cpu"), dtype=torch.float32, exact=False)
    digests = [maker.adapter(sources=[basis], own=0.0) for _ in range(6)]
    loaded, _ = Bank(lambda: Reader(maker.memory), recipe_of, target, limit_bytes=None).hold(
        digests
    )
    alike = {
        (run.width, len(run.members), run.dense[0].place)
        for recipe in loaded.recipes.values()
        for run in recipe.parts
        if run.dense
    }
    jobs = [
        job for job in Pass(loaded, target, Buffers(target.device))._jobs if job.runs[0][1].dense
    ]
    assert len(jobs) == len(alike)
    assert sum(len(job.runs) for job in jobs) > len(jobs)


@pytest.mark.parametrize(("dtype", "together"), [(torch.float32, True), (torch.bfloat16, False)])
def test_what_narrower_results_are_made_from_stays_small(
    dtype: torch.dtype, *, together: bool
) -> None:
    maker = Maker(1)
    basis = maker.basis(uniform=True)
    target = DeviceTarget(torch.device("cpu"), dtype=dtype, exact=False)
    target.scratch_numbers = 600
    loaded, _ = Bank(lambda: Reader(maker.memory), recipe_of, target, limit_bytes=None).hold(
        [maker.adapter(sources=[basis], own=0.0) for _ in range(40)]
    )
    jobs = Pass(loaded, target, Buffers(target.device))._jobs
    small = [
        len(job.runs) == 1 or job.shape[1] * job.shape[2] <= target.scratch_numbers for job in jobs
    ]
    assert all(small) != together
    assert sum(len(job.runs) for job in jobs) == sum(
        len(recipe.parts) for recipe in loaded.recipes.values()
    )
    assert max(len(job.runs) for job in jobs) > 1


def test_rows_of_zeros_take_no_memory() -> None:
    maker = Maker(2)
    basis = maker.basis(uniform=True)
    target = DeviceTarget(torch.device("cpu"), dtype=None, exact=False)
    digest = maker.adapter(sources=[basis], own=0.0)
    loaded, _ = Bank(lambda: Reader(maker.memory), recipe_of, target, limit_bytes=None).hold(
        [digest]
    )
    assert [key.digest for key in loaded.rows] == [basis]


def test_rows_stay_narrow_integers() -> None:
    maker = Maker(5)
    digest = maker.adapter(own=1.0)
    target = DeviceTarget(torch.device("cpu"), dtype=None, exact=False)
    loaded, _ = Bank(lambda: Reader(maker.memory), recipe_of, target, limit_bytes=None).hold(
        [digest]
    )
    (rows,) = loaded.rows.values()
    assert {stack.dtype for stack in rows.stacks} <= {torch.int8, torch.int16, torch.int32}
    assert not rows.as_floats


def test_a_repeated_pass_writes_the_same_again() -> None:
    maker, digests = family(9)
    target = DeviceTarget(torch.device("cpu"), dtype=None, exact=False)
    loaded, _ = Bank(lambda: Reader(maker.memory), recipe_of, target, limit_bytes=None).hold(
        digests
    )
    work = Pass(loaded, target, Buffers(target.device))
    work.fill()
    results = work.output.factors()
    before = {key: tensor.clone() for key, tensor in results[digests[1]].items()}
    for tensor in results[digests[1]].values():
        tensor.zero_()
    RepeatedPass(work.fill, target).run()
    assert all(results[digests[1]][key].equal(tensor) for key, tensor in before.items())


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("fault", ["fewer rows", "another width", "another module", "gone"])
def test_a_block_that_does_not_fit_is_damage(fault: str, exact: bool) -> None:
    maker = Maker(4)
    basis = maker.basis(uniform=True)
    digest = next(
        candidate
        for candidate in (maker.adapter(sources=[basis]) for _ in range(9))
        if maker.stored[candidate].sources
    )
    modules = maker.bases[basis].modules
    wrong = {
        "fewer rows": {name: (a[:-1], b[:-1]) for name, (a, b) in modules.items()},
        "another width": {name: (a[:, :-1], b[:, :-1]) for name, (a, b) in modules.items()},
        "another module": {f"x{name}": pair for name, pair in modules.items()},
    }
    if fault == "gone":
        del maker.memory.objects[basis]
    else:
        maker.memory.objects[basis] = basis_object.encode(StoredBasis(modules=wrong[fault]))
    with pytest.raises(IntegrityError, match=basis):
        materialize(maker, [digest], exact=exact)


def test_a_product_that_may_not_be_exact_is_damage() -> None:
    """Spec DEC-03."""
    maker = Maker(6)
    maker.bases = {}
    modules = {
        f"m{number}": (maker.ints(6, width, MOST), maker.ints(6, height, MOST))
        for number, (width, height) in enumerate(((24, 16), (24, 16), (40, 24), (24, 24), (40, 24)))
    }
    basis = maker.memory.put(basis_object.encode(StoredBasis(modules=modules)))
    maker.bases[basis] = StoredBasis(modules=modules)

    def largest_ints(rows: int, width: int, largest: int | None = None) -> NDArray[np.int32]:
        return np.full((rows, width), MOST, np.int32)

    maker.ints = largest_ints  # type: ignore[method-assign]
    digest = maker.adapter(sources=[basis])
    with pytest.raises(IntegrityError, match="more than the 45"):
        materialize(maker, [digest], exact=True)


def test_a_limit_splits_a_pass_and_changes_nothing() -> None:
    maker, digests = family(12)
    whole = materialize(maker, digests, exact=True)
    target = DeviceTarget(torch.device("cpu"), dtype=None, exact=True)
    unlimited = Bank(lambda: Reader(maker.memory), exact_recipe_of, target, limit_bytes=None)
    unlimited.hold(digests)
    bank = Bank(
        lambda: Reader(maker.memory),
        exact_recipe_of,
        target,
        limit_bytes=int(0.9 * unlimited.used_bytes),
    )
    left: Sequence[Digest] = digests
    portions = 0
    while left:
        loaded, left = bank.hold(left)
        assert bank.used_bytes <= 0.9 * unlimited.used_bytes
        work = ExactPass(loaded, target, Buffers(target.device))
        work.fill()
        portions += 1
        for digest, factors in work.output.factors().items():
            assert all(factors[key].equal(whole[digest][key]) for key in factors)
    assert portions > 1
    assert bank.evictions


def test_memory_is_lent_again_when_the_last_tensor_over_it_is_gone() -> None:
    pool = Recycled()
    first = pool.take(1 << 20, torch.float32)
    place, view = first.data_ptr(), first.view(1024, 1024)[3:, 5:].T
    del first
    second = pool.take(1 << 20, torch.float32)
    assert second.data_ptr() != place
    del view
    again = pool.take(1 << 20, torch.bfloat16)
    assert again.dtype == torch.bfloat16
    assert again.data_ptr() == place


def test_memory_in_use_is_never_lent_twice() -> None:
    pool = Recycled()
    pieces = [pool.take(1 << 19, torch.float32).fill_(number) for number in range(4)]
    del pieces[1]
    pieces.append(pool.take(1 << 19, torch.float32).fill_(9))
    assert [int(piece[0]) for piece in pieces] == [0, 2, 3, 9]
    assert all(bool((piece == piece[0]).all()) for piece in pieces)
