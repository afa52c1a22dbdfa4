"""Floats split into heads and tails: every bit comes back, whatever the numbers are."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from share_registry.errors import IntegrityError
from share_registry.format import heads as module
from share_registry.format.adapter_object import decode, encode
from share_registry.format.adapter_table import FloatTable
from share_registry.format.canonical import sha256
from share_registry.format.frames import pack_stream
from share_registry.format.heads import SPLITS, find_base, join, split, stream_sizes
from share_registry.format.kept_tensors import plan_kept
from share_registry.format.layout import DType, FactorSpec, Form, Layout, TensorSpec
from share_registry.format.tensor_object import decode_tensor, encode_tensor
from share_registry.stored import StoredAdapter
from tests.house.tree import ROOT

TYPES = sorted(SPLITS)
BF16_RATIO = 0.664
"""Stored by given bytes of a Gaussian tensor of 2**20 numbers: .658 here, .669 as byte planes."""
PATTERNS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "gaussian": lambda rng, size: rng.standard_normal(size),
    "of many sizes": lambda rng, size: (
        rng.standard_normal(size) * 10.0 ** rng.integers(-6, 4, size)
    ),
    "zeros": lambda rng, size: np.zeros(size),
    "zeros of both signs": lambda rng, size: np.where(rng.random(size) < 0.5, 0.0, -0.0),
    "not finite": lambda rng, size: rng.choice([np.inf, -np.inf, np.nan, 1.0], size),
}


def content_of(pattern: str, seed: int, size: int, dtype: DType) -> bytes:
    """Return a tensor's bytes: numbers of a pattern, or any bits."""
    rng = np.random.default_rng(seed)
    if pattern == "any bits":
        return rng.bytes(size * dtype.size_bytes)
    values = PATTERNS[pattern](rng, size).astype(np.float32)
    if dtype is DType.BF16:
        return (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    return values.astype("<f2" if dtype is DType.F16 else "<f4").tobytes()


def tensors(dtype: DType) -> st.SearchStrategy[bytes]:
    return st.builds(
        content_of,
        st.sampled_from([*PATTERNS, "any bits"]),
        st.integers(0, 10**6),
        st.integers(0, 700),
        st.just(dtype),
    )


@settings(deadline=None, max_examples=150)
@given(dtype=st.sampled_from(TYPES), choose=st.data())
def test_a_group_gives_back_its_tensors(dtype: DType, choose: st.DataObject) -> None:
    contents = choose.draw(st.lists(tensors(dtype), max_size=4))
    heads = SPLITS[dtype].heads
    bases = [choose.draw(st.integers(0, heads - 1)) for _ in contents]
    counts = [len(content) // dtype.size_bytes for content in contents]
    group = split(contents, bases, dtype=dtype)
    streams = [bytes(stream) for stream in group.streams]
    assert [len(stream) for stream in streams] == stream_sizes(counts, group.escapes, dtype=dtype)
    assert join(streams, bases, counts, dtype=dtype) == contents


@pytest.mark.parametrize("dtype", TYPES)
def test_a_tensor_of_several_chunks_comes_back(dtype: DType) -> None:
    size = 2 * module._CHUNK + 7
    content = content_of("of many sizes", 1, size, dtype)
    group = split([content, content[: -dtype.size_bytes]], [3, 5], dtype=dtype)
    streams = [bytes(stream) for stream in group.streams]
    joined = join(streams, [3, 5], [size, size - 1], dtype=dtype)
    assert joined == [content, content[: -dtype.size_bytes]]
    assert group.escapes > 0


@settings(deadline=None, max_examples=100)
@given(dtype=st.sampled_from([*TYPES, DType.F64, DType.I64, DType.U8]), choose=st.data())
def test_a_tensor_object_is_of_its_element_type(dtype: DType, choose: st.DataObject) -> None:
    source = dtype if dtype in SPLITS else DType.F32
    content = choose.draw(tensors(source))
    content = content[: len(content) // dtype.size_bytes * dtype.size_bytes]
    packed = encode_tensor(content, dtype=dtype)
    assert decode_tensor(packed, dtype=dtype, size=len(content)) == content
    others = [each for each in TYPES if each.size_bytes == dtype.size_bytes and each != dtype]
    for other in others if dtype in SPLITS else ():
        with pytest.raises(IntegrityError, match="split as"):
            decode_tensor(packed, dtype=other, size=len(content))


def test_a_tensor_object_is_split_only_where_what_names_it_says_so() -> None:
    packed = encode_tensor(bytes(24), dtype=DType.F32)
    with pytest.raises(IntegrityError, match="does not say so"):
        decode_tensor(packed, dtype=DType.F32, size=24, heads=False)


def mixed_layout(sizes: list[int], dtypes: list[DType]) -> Layout:
    """Return a layout of one pair, the first two tensors, and passengers."""
    specs = [
        TensorSpec(key="q.A", dtype=dtypes[0], shape=[2, 5]),
        TensorSpec(key="q.B", dtype=dtypes[0], shape=[3, 2]),
    ]
    specs += [
        TensorSpec(key=f"p{number}", dtype=dtype, shape=[size])
        for number, (size, dtype) in enumerate(zip(sizes, dtypes[1:], strict=True))
    ]
    pair = FactorSpec(module="q", form=Form.LINEAR, a=0, b=1)
    return Layout(metadata=[], tensors=specs, factors=[pair])


def lossless(layout: Layout, seed: int, pattern: str, *, heads: bool) -> StoredAdapter:
    """Return an adapter of which every tensor is kept bit for bit."""
    kept = {
        index: content_of(pattern, seed + index, spec.elements, spec.dtype)
        if spec.dtype in SPLITS
        else np.random.default_rng(seed + index).bytes(spec.size_bytes)
        for index, spec in enumerate(layout.tensors)
    }
    return StoredAdapter(
        layout=sha256(layout.to_bytes()),
        previous=None,
        sources=(),
        modules=(None,),
        verbatim=kept,
        external={},
        heads=heads,
    )


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(0, 90), max_size=5),
    choose=st.data(),
    pattern=st.sampled_from([*PATTERNS, "any bits"]),
    heads=st.booleans(),
)
def test_an_adapter_object_gives_back_its_tensors(
    seed: int, sizes: list[int], choose: st.DataObject, pattern: str, heads: bool
) -> None:
    first = choose.draw(st.sampled_from(TYPES))
    rest = [choose.draw(st.sampled_from([*DType])) for _ in sizes]
    layout = mixed_layout(sizes, [first, *rest])
    stored = lossless(layout, seed, pattern, heads=heads)
    content = encode(stored, layout)
    assert decode(content, layout) == stored
    assert encode(decode(content, layout), layout) == content


def test_many_tensors_lie_in_few_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    from share_registry.format import kept_tensors

    monkeypatch.setattr(kept_tensors, "_GROUP", 64)
    layout = mixed_layout([40] * 300, [DType.BF16] * 301)
    stored = lossless(layout, 1, "of many sizes", heads=True)
    packed = kept_tensors.pack_kept(stored.verbatim, layout, heads=True)
    assert packed.floats is not None
    assert 32 < len(packed.floats.escapes) <= kept_tensors._MOST_GROUPS + 9
    assert decode(encode(stored, layout), layout) == stored


def test_codes_of_a_gaussian_tensor_are_short() -> None:
    content = content_of("gaussian", 1, 1 << 20, DType.BF16)
    assert len(encode_tensor(content, dtype=DType.BF16)) < BF16_RATIO * len(content)


def test_the_base_follows_the_size_of_the_numbers() -> None:
    numbers = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
    first, twice = (find_base(each.tobytes(), dtype=DType.F32) for each in (numbers, 2 * numbers))
    assert twice - first == SPLITS[DType.F32].octave


FAULTS: dict[str, Callable[[bytes, bytes], tuple[bytes, bytes]]] = {
    "an escape that no code has": lambda codes, escapes: (codes, escapes + b"\0\0"),
    "a code without escape": lambda codes, escapes: (b"\xff" + codes[1:], escapes),
    "an escape that is no head": lambda codes, escapes: (
        b"\xff" + codes[1:],
        b"\xff\xff" + escapes,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("dtype", TYPES)
def test_streams_that_do_not_fit_are_refused(fault: str, dtype: DType) -> None:
    """Spec FRM-11."""
    content = content_of("gaussian", 1, 9, dtype)
    group = split([content], [find_base(content, dtype=dtype)], dtype=dtype)
    codes, escapes, *tails = (bytes(stream) for stream in group.streams)
    assert not escapes
    assert join([codes, escapes, *tails], group.bases, [9], dtype=dtype) == [content]
    with pytest.raises(IntegrityError, match="escapes"):
        join([*FAULTS[fault](codes, escapes), *tails], group.bases, [9], dtype=dtype)


def test_more_escapes_than_numbers_are_refused_before_anything_is_planned_for_them() -> None:
    """Spec LIM-25: the lengths of the pieces of a terabyte would be a list of their own."""
    layout = mixed_layout([], [DType.BF16])
    floats = FloatTable(groups=(1, 1), bases=(0, 0), escapes=(17,))
    with pytest.raises(IntegrityError, match="a group of 16 floats has 17 escapes"):
        plan_kept([0, 1], layout, floats)
    assert plan_kept([0, 1], layout, replace(floats, escapes=(16,))).sizes == (16, 32, 8)
    vector = "TEN-05-more-escapes-than-numbers.tensor.safetensors"
    content = (ROOT / "spec" / "vectors" / "bad" / vector).read_bytes()
    with pytest.raises(IntegrityError, match="7 escapes, expected 6 numbers"):
        decode_tensor(content, dtype=DType.F32, size=24)


def test_a_long_piece_is_no_longer_than_by_the_worse_setting() -> None:
    """The stretch that is tried decides; what cannot be shortened is kept as it is."""
    noise = np.random.default_rng(0).bytes(1 << 17)
    assert bytes(pack_stream(noise)[0]) == noise
    repeats = np.random.default_rng(0).bytes(1 << 12) * 64
    assert sum(map(len, pack_stream(repeats))) < len(repeats) / 32


def test_objects_without_heads_are_as_they_were() -> None:
    layout = mixed_layout([3], [DType.F32, DType.BF16])
    stored = lossless(layout, 1, "gaussian", heads=False)
    assert b"heads" not in encode(stored, layout)[:400]
    assert b"heads" in encode(replace(stored, heads=True), layout)[:400]
