"""Terms over a basis.

Its rows take the place of an adapter's own, and nothing else changes in decoding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from share_registry.errors import IntegrityError
from share_registry.format import adapter_object, basis_object
from share_registry.format.canonical import sha256
from share_registry.format.layout import DType, FactorSpec, Form, Layout, TensorSpec
from share_registry.format.tensor_object import encode_tensor
from share_registry.materialize.decoder import Reader
from share_registry.names import Digest, Side
from share_registry.stored import StoredAdapter, StoredBasis, StoredModule, StoredSide, Term
from tests.materialize.stored import Memory

R, IN, OUT, K_A, K_B = 2, 6, 4, 3, 5
LAYOUT = Layout(
    metadata=[],
    tensors=[
        TensorSpec(key="A", dtype=DType.F32, shape=[R, IN]),
        TensorSpec(key="B", dtype=DType.F32, shape=[OUT, R]),
    ],
    factors=[FactorSpec(module="q", form=Form.LINEAR, a=0, b=1)],
)
LAYOUT_BYTES = LAYOUT.to_bytes()
Ints = NDArray[np.int32] | NDArray[np.int16] | NDArray[np.int8]


@dataclass
class Counting(Memory):
    """Counts how often each object is read."""

    reads: dict[Digest, int] = field(default_factory=dict)

    def get_or_spare(self, digest: Digest, *, limit: int = 0) -> bytes:
        self.reads[digest] = self.reads.get(digest, 0) + 1
        return super().get_or_spare(digest, limit=limit)


def ints(seed: int, *shape: int) -> Ints:
    return np.random.default_rng(seed).integers(-900, 900, shape, dtype=np.int32)


def factor(width: int, k: int, seed: int, *, own: Ints | None = None) -> StoredSide:
    term = Term(source=0, exponent=-3, coefficients=ints(seed, R, k))
    scales = np.array([0.5, 2.0**-9], np.float32)
    return StoredSide(
        previous=False,
        terms=(term,),
        scales=scales,
        own=np.zeros((R, width), np.int32) if own is None else own,
    )


A, B = factor(IN, K_A, 1, own=ints(3, R, IN)), factor(OUT, K_B, 2)
BASIS = StoredBasis(modules={"q": (ints(4, K_A, IN), ints(5, K_B, OUT))})


def stored(source: Digest) -> bytes:
    layout = sha256(LAYOUT_BYTES)
    return adapter_object.encode(
        StoredAdapter(
            layout=layout,
            previous=None,
            sources=(source,),
            modules=(StoredModule(a=A, b=B, error=0.0),),
            verbatim={},
            external={},
        ),
        LAYOUT,
    )


def fill_memory(source: bytes) -> tuple[Counting, Digest, Digest]:
    """Return a store of an adapter over the rows of a source, its digest and that of the source."""
    memory = Counting()
    memory.put(LAYOUT_BYTES)
    digest = memory.put(source)
    return memory, memory.put(stored(digest)), digest


def expected(side: StoredSide, rows: Ints) -> NDArray[np.float32]:
    """One element after another, in plain Python floats (spec DEC-04, DEC-06)."""
    (term,) = side.terms
    values = np.zeros(side.own.shape, np.float32)
    for i, j in np.ndindex(*values.shape):
        product = sum(
            int(c) * int(q) for c, q in zip(term.coefficients[i], rows[:, j], strict=True)
        )
        values[i, j] = np.float32(
            float(side.scales[i]) * (product * 2.0**term.exponent + float(side.own[i, j]))
        )
    return values


def test_a_factor_over_a_basis_is_what_plain_arithmetic_gives() -> None:
    """Spec DEC-02."""
    memory, adapter, source = fill_memory(basis_object.encode(BASIS))
    reader = Reader(memory)
    tensors = reader.tensors(adapter)
    assert np.array_equal(tensors["A"].numpy(), expected(A, BASIS.modules["q"][0]))
    assert np.array_equal(tensors["B"].numpy(), expected(B, BASIS.modules["q"][1]).T)
    assert reader.is_basis(source)
    assert not reader.is_basis(adapter)


def test_an_adapter_with_the_same_rows_gives_the_same_factor() -> None:
    """Side `a` over own rows of an adapter of rank 3, side `b` left alone.

    Own rows and rows of a basis are alike.
    """
    wide = Layout(
        metadata=[],
        tensors=[
            TensorSpec(key="A", dtype=DType.F32, shape=[K_A, IN]),
            TensorSpec(key="B", dtype=DType.F32, shape=[OUT, K_A]),
        ],
        factors=[FactorSpec(module="q", form=Form.LINEAR, a=0, b=1)],
    )
    rows = (BASIS.modules["q"][0], BASIS.modules["q"][1][:K_A])
    sides = [
        StoredSide(previous=False, terms=(), scales=np.ones(K_A, np.float32), own=own)
        for own in rows
    ]
    value = StoredAdapter(
        layout=sha256(wide.to_bytes()),
        previous=None,
        sources=(),
        modules=(StoredModule(a=sides[0], b=sides[1], error=0.0),),
        verbatim={},
        external={},
    )
    first, second = Counting(), Counting()
    results = []
    for memory, content in (
        (first, adapter_object.encode(value, wide)),
        (second, basis_object.encode(StoredBasis(modules={"q": rows}))),
    ):
        memory.put(LAYOUT_BYTES)
        memory.put(wide.to_bytes())
        short = replace(
            B, terms=(replace(B.terms[0], coefficients=B.terms[0].coefficients[:, :K_A]),)
        )
        referring = StoredAdapter(
            layout=sha256(LAYOUT_BYTES),
            previous=None,
            sources=(memory.put(content),),
            modules=(StoredModule(a=A, b=short, error=0.0),),
            verbatim={},
            external={},
        )
        results.append(Reader(memory).tensors(memory.put(adapter_object.encode(referring, LAYOUT))))
    assert all(torch.equal(results[0][key], results[1][key]) for key in ("A", "B"))


def test_a_basis_is_read_and_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, adapter, source = fill_memory(basis_object.encode(BASIS))
    decoded: list[bytes] = []
    decode = basis_object.decode

    def counted(content: bytes) -> StoredBasis:
        decoded.append(content)
        return decode(content)

    monkeypatch.setattr(basis_object, "decode", counted)
    reader = Reader(memory)
    for _ in range(3):
        reader.tensors(adapter)
        assert reader.basis(source).rows("q", Side.A) is not None
    assert len(decoded) == 1
    assert memory.reads[source] == 1


def test_an_adapter_that_is_referred_to_is_read_once() -> None:
    memory, adapter, _ = fill_memory(basis_object.encode(BASIS))
    reader = Reader(memory)
    assert not reader.is_basis(adapter)
    reader.rows(adapter)
    assert not reader.is_basis(adapter)
    assert memory.reads[adapter] == 1


def test_a_small_cache_changes_nothing() -> None:
    memory, adapter, _ = fill_memory(basis_object.encode(BASIS))
    kept, bare = Reader(memory).tensors(adapter), Reader(memory, cache_bytes=1).tensors(adapter)
    assert all(torch.equal(kept[key], bare[key]) for key in kept)


WRONG: Mapping[str, bytes] = {
    "another module": basis_object.encode(StoredBasis(modules={"v": BASIS.modules["q"]})),
    "fewer rows": basis_object.encode(
        StoredBasis(modules={"q": (BASIS.modules["q"][0][:2], BASIS.modules["q"][1])})
    ),
    "no rows": basis_object.encode(
        StoredBasis(modules={"q": (BASIS.modules["q"][0][:0], BASIS.modules["q"][1])})
    ),
    "another width": basis_object.encode(
        StoredBasis(modules={"q": (BASIS.modules["q"][0][:, :5], BASIS.modules["q"][1])})
    ),
    "a tensor object": encode_tensor(bytes(24), dtype=DType.F32),
    "no object": b"rows",
}


@pytest.mark.parametrize("fault", sorted(WRONG))
def test_a_source_without_the_block_is_damage(fault: str) -> None:
    memory, adapter, _ = fill_memory(WRONG[fault])
    with pytest.raises(IntegrityError):
        Reader(memory).rows(adapter)


def test_a_basis_that_is_gone_is_named() -> None:
    memory, adapter, source = fill_memory(basis_object.encode(BASIS))
    del memory.objects[source]
    with pytest.raises(IntegrityError, match=source):
        Reader(memory).rows(adapter)


def test_an_adapter_is_no_basis() -> None:
    memory, adapter, _ = fill_memory(basis_object.encode(BASIS))
    with pytest.raises(IntegrityError, match="no basis object"):
        Reader(memory).basis(adapter)
