"""The adapter object.

What goes in comes out, whatever is damaged is called damaged, and nothing takes memory on the word
of a length.
"""

from dataclasses import replace

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings, strategies as st

from share_registry.errors import FormatError, IntegrityError
from share_registry.format.adapter_object import bits_of, decode, encode, header
from share_registry.format.adapter_table import AdapterTable, Lane
from share_registry.format.canonical import sha256
from share_registry.format.frames import (
    MAX_FRAME_BYTES,
    compress,
    declared_size,
    expand,
    pack_stream,
    piece_sizes,
    unpack_streams,
)
from share_registry.format.layout import DType, FactorSpec, Form, Layout, TensorSpec
from share_registry.format.object_file import pack, unpack
from share_registry.format.packed_rows import decode_rows
from share_registry.format.symbols import MAX_BITS, Group, encode_rows
from share_registry.format.tensor_object import decode_tensor, encode_tensor
from share_registry.names import Digest
from share_registry.stored import StoredAdapter, StoredModule, StoredSide, Term

SOURCES = tuple(Digest(f"{number:064x}") for number in range(1, 4))
PARTS = ("planes", "symbols", "table")


def layout(shapes: list[tuple[int, int, int]], *, passenger: int = 5) -> Layout:
    """Linear pairs of (rank, in, out), the last passenger a bfloat16 vector."""
    tensors, factors = [], []
    for number, (rank, width, height) in enumerate(shapes):
        tensors += [
            TensorSpec(key=f"{number}.A", dtype=DType.F32, shape=[rank, width]),
            TensorSpec(key=f"{number}.B", dtype=DType.F32, shape=[height, rank]),
        ]
        factors.append(
            FactorSpec(module=f"m{number}", form=Form.LINEAR, a=2 * number, b=2 * number + 1)
        )
    tensors.append(TensorSpec(key="passenger", dtype=DType.BF16, shape=[passenger]))
    return Layout(metadata=[], tensors=tensors, factors=factors)


def side(
    rng: np.random.Generator, rank: int, width: int, *, spread: float, terms: int, previous: bool
) -> StoredSide:
    scales = (
        rng.uniform(1e-3, 1, rank).astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    ).view(np.float32)
    rows = np.clip(
        rng.standard_normal((rank, width)) * spread * rng.uniform(0, 1, (rank, 1)),
        -(2**23) + 1,
        2**23 - 1,
    )
    combined = tuple(
        Term(
            source=t,
            exponent=int(rng.integers(-128, 128)),
            coefficients=rng.integers(-900, 900, (rank, 3), dtype=np.int32),
        )
        for t in range(terms)
    )
    return StoredSide(previous=previous, terms=combined, scales=scales, own=rows.astype(np.int32))


def adapter(
    seed: int,
    shapes: list[tuple[int, int, int]],
    *,
    spread: float = 3.0,
    terms: int = 0,
    previous: bool = False,
    lossless: int = 0,
) -> tuple[StoredAdapter, Layout]:
    """A random value; the first `lossless` modules are kept verbatim."""
    rng = np.random.default_rng(seed)
    spec = layout(shapes)
    modules = [
        StoredModule(
            a=side(rng, rank, width, spread=spread, terms=terms, previous=previous),
            b=side(rng, rank, height, spread=spread, terms=terms, previous=previous),
            error=0.046875,
        )
        for rank, width, height in shapes
    ]
    verbatim = [*range(2 * lossless), len(spec.tensors) - 1]
    coded = lossless < len(shapes)
    value = StoredAdapter(
        layout=sha256(spec.to_bytes()),
        previous=SOURCES[2] if previous and coded else None,
        sources=SOURCES[:terms] if coded else (),
        modules=(*[None] * lossless, *modules[lossless:]),
        verbatim={index: rng.bytes(spec.tensors[index].size_bytes) for index in verbatim},
        external={},
    )
    return value, spec


def assert_equal(first: StoredAdapter, second: StoredAdapter) -> None:
    assert replace(first, modules=()) == replace(second, modules=())
    for left_module, right_module in zip(first.modules, second.modules, strict=True):
        assert (left_module is None) == (right_module is None)
        if left_module is not None and right_module is not None:
            assert left_module.error == right_module.error
            for left, right in ((left_module.a, right_module.a), (left_module.b, right_module.b)):
                assert left.previous == right.previous
                assert [(term.source, term.exponent) for term in left.terms] == [
                    (term.source, term.exponent) for term in right.terms
                ]
                arrays = [(left.scales, right.scales), (left.own, right.own)]
                arrays += [
                    (x.coefficients, y.coefficients)
                    for x, y in zip(left.terms, right.terms, strict=True)
                ]
                assert all(
                    x.dtype.kind == y.dtype.kind and np.array_equal(x, y) for x, y in arrays
                )  # short integers come back short


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    shapes=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=3
    ),
    spread=st.sampled_from([0.0, 0.3, 1.0, 30.0, 1e4, 3e6]),
    terms=st.integers(0, 2),
    previous=st.booleans(),
    lossless=st.integers(0, 1),
)
def test_what_is_encoded_is_decoded(
    seed: int,
    shapes: list[tuple[int, int, int]],
    spread: float,
    terms: int,
    previous: bool,
    lossless: int,
) -> None:
    value, spec = adapter(
        seed, shapes, spread=spread, terms=terms, previous=previous, lossless=lossless
    )
    content = encode(value, spec)
    assert_equal(decode(content, spec), value)
    assert encode(value, spec) == content
    parsed = header(content)
    assert (parsed.layout, parsed.previous, tuple(parsed.sources)) == (
        value.layout,
        value.previous,
        value.sources,
    )


GOOD, GOOD_LAYOUT = adapter(
    7, [(3, 17, 9), (2, 8, 8), (2, 5, 6)], spread=4.0, terms=2, previous=True, lossless=1
)
GOOD_BYTES = encode(GOOD, GOOD_LAYOUT)


def plain_table(table: memoryview) -> bytes:
    return (
        expand(table[1:], declared_size(table[1:], subject="table"), subject="table")
        if table[0]
        else bytes(table[1:])
    )


@settings(deadline=None, max_examples=400)
@given(
    places=st.lists(
        st.tuples(st.integers(0, len(GOOD_BYTES) - 1), st.integers(1, 255)), min_size=1, max_size=4
    )
)
def test_flipped_bytes_give_a_value_of_the_layout_or_integrity(
    places: list[tuple[int, int]],
) -> None:
    damaged = bytearray(GOOD_BYTES)
    for place, flip in places:
        damaged[place] ^= flip
    try:
        decoded = decode(bytes(damaged), GOOD_LAYOUT)
    except (IntegrityError, FormatError):
        return
    assert_equal(decode(encode(decoded, GOOD_LAYOUT), GOOD_LAYOUT), decoded)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_flips_inside_the_table_give_a_value_of_the_layout_or_integrity(
    data: st.DataObject,
) -> None:
    entries, parts = unpack(GOOD_BYTES, PARTS, subject="object")
    raw = bytearray(b"\0" + plain_table(parts["table"]))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    damaged = pack(
        entries,
        {"planes": [parts["planes"]], "symbols": [parts["symbols"]], "table": [bytes(raw)]},
    )
    try:
        decode(damaged, GOOD_LAYOUT)
    except (IntegrityError, FormatError):
        return


@settings(deadline=None, max_examples=150)
@given(length=st.integers(0, len(GOOD_BYTES) - 1))
def test_a_truncated_object_is_called_damaged(length: int) -> None:
    with pytest.raises(IntegrityError):
        decode(GOOD_BYTES[:length], GOOD_LAYOUT)


def test_an_object_with_more_bytes_is_called_damaged() -> None:
    with pytest.raises(IntegrityError):
        decode(GOOD_BYTES + b"\0", GOOD_LAYOUT)


def test_an_object_of_another_layout_is_called_damaged() -> None:
    with pytest.raises(IntegrityError):
        decode(GOOD_BYTES, layout([(3, 17, 9), (2, 8, 8), (2, 5, 7)]))


def _with_side(value: StoredAdapter, **changes: object) -> StoredAdapter:
    module = value.modules[1]
    assert module is not None
    return replace(
        value,
        modules=(
            value.modules[0],
            replace(module, a=replace(module.a, **changes)),  # type: ignore[arg-type]
            *value.modules[2:],
        ),
    )


@pytest.mark.parametrize(
    "fault",
    [
        "symbol too large", "coefficient too large", "scale not a bfloat16", "scale negative",
        "scale infinite", "rows of another shape", "sources out of order", "source not named",
        "source named and not used", "source named twice", "previous not named",
        "passenger missing", "passenger too short", "coded tensor kept as well",
        "too few modules", "error not a bfloat16",
    ],
)  # fmt: skip
def test_a_value_outside_the_format_is_not_encoded(fault: str) -> None:
    with pytest.raises(IntegrityError):
        encode(_broken(fault), GOOD_LAYOUT)


def _broken(fault: str) -> StoredAdapter:
    module = GOOD.modules[1]
    assert module is not None
    side_a = module.a
    large = np.full_like(side_a.own, 1 << MAX_BITS)
    values = {
        "symbol too large": lambda: _with_side(GOOD, own=large),
        "coefficient too large": lambda: _with_side(
            GOOD, terms=(replace(side_a.terms[0], coefficients=large[:, :3]), side_a.terms[1])
        ),
        "scale not a bfloat16": lambda: _with_side(GOOD, scales=np.full_like(side_a.scales, 0.1)),
        "scale negative": lambda: _with_side(GOOD, scales=-side_a.scales),
        "scale infinite": lambda: _with_side(GOOD, scales=np.full_like(side_a.scales, np.inf)),
        "rows of another shape": lambda: _with_side(GOOD, own=side_a.own[:, 1:]),
        "sources out of order": lambda: _with_side(GOOD, terms=side_a.terms[::-1]),
        "source not named": lambda: _with_side(
            GOOD, terms=(side_a.terms[0], replace(side_a.terms[1], source=2))
        ),
        "source named and not used": lambda: replace(GOOD, sources=SOURCES),
        "source named twice": lambda: replace(GOOD, sources=(SOURCES[0], SOURCES[0])),
        "previous not named": lambda: replace(GOOD, previous=None),
        "passenger missing": lambda: replace(
            GOOD,
            verbatim={index: content for index, content in GOOD.verbatim.items() if index != 6},
        ),
        "passenger too short": lambda: replace(GOOD, verbatim={**GOOD.verbatim, 6: b""}),
        "coded tensor kept as well": lambda: replace(
            GOOD, verbatim={**GOOD.verbatim, 2: bytes(64)}
        ),
        "too few modules": lambda: replace(GOOD, modules=GOOD.modules[:-1]),
        "error not a bfloat16": lambda: replace(
            GOOD, modules=(None, replace(module, error=0.1), GOOD.modules[2])
        ),
    }
    return values[fault]()


def test_experts_of_one_factor_are_coded_together_or_not_at_all() -> None:
    tensors = [
        TensorSpec(key="A", dtype=DType.F32, shape=[4, 6]),
        TensorSpec(key="B", dtype=DType.F32, shape=[5, 4]),
    ]
    spec = Layout(
        metadata=[],
        tensors=tensors,
        factors=[FactorSpec(module="e", form=Form.EXPERTS, a=0, b=1, experts=2)],
    )
    rng = np.random.default_rng(0)
    module = StoredModule(
        a=side(rng, 2, 6, spread=2, terms=0, previous=False),
        b=side(rng, 2, 5, spread=2, terms=0, previous=False),
        error=0.5,
    )
    value = StoredAdapter(
        layout=sha256(spec.to_bytes()),
        previous=None,
        sources=(),
        modules=(module, module),
        verbatim={},
        external={},
    )
    assert_equal(decode(encode(value, spec), spec), value)
    with pytest.raises(IntegrityError, match="some modules coded"):
        encode(replace(value, modules=(module, None)), spec)


def test_external_tensors_stand_in_the_header_and_not_in_the_object() -> None:
    value = replace(
        GOOD, verbatim={index: GOOD.verbatim[index] for index in (0, 1)}, external={6: SOURCES[0]}
    )
    content = encode(value, GOOD_LAYOUT)
    assert_equal(decode(content, GOOD_LAYOUT), value)
    assert [(item.object, item.tensor) for item in header(content).external] == [(SOURCES[0], 6)]
    with pytest.raises(IntegrityError, match="external"):
        encode(replace(value, external={6: SOURCES[0], 2: SOURCES[1]}), GOOD_LAYOUT)


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 10**6),
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    peak=st.sampled_from([0, 1, 2, 7, 100, 70_000, (1 << 23) - 1]),
)
def test_rows_of_any_widths_and_sizes_come_back(seed: int, widths: list[int], peak: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [rng.integers(-peak, peak + 1, width, dtype=np.int32) for width in widths]
    coded = encode_rows(rows)
    decoded = decode_rows(
        memoryview(b"".join(coded.content)),
        [(1, width) for width in widths],
        coded.groups_of_rows,
        coded.groups,
        coded.pieces,
    )
    assert all(np.array_equal(row, block[0]) for row, block in zip(rows, decoded, strict=True))


def test_many_numbers_are_cut_into_frames_and_come_near_their_entropy() -> None:
    rows = [
        np.random.default_rng(number).normal(0, 6, 1 << 20).round().astype(np.int32)
        for number in range(5)
    ]
    coded = encode_rows(rows)
    assert len(coded.pieces) == 2
    entropy = bits_of(
        StoredSide(previous=False, terms=(), scales=np.zeros(0, np.float32), own=np.stack(rows))
    )
    assert entropy < 8 * sum(map(len, coded.content)) < 1.02 * entropy


def test_a_few_bytes_cannot_stand_for_billions_of_numbers() -> None:
    spec = layout([(64, 1 << 30, 8)])
    _, parts = unpack(GOOD_BYTES, PARTS, subject="object")
    entries = {
        "format": 1,
        "kind": "adapter",
        "layout": sha256(spec.to_bytes()),
        "sources": [],
        "external": [],
    }
    rows = 128
    raw = (
        bytes([0, 1, 1, 0, 0])
        + bytes(4 * rows)
        + bytes(2)
        + bytes([1]) * rows
        + bytes([1, 0])
        + bytes(3 * (-(-(64 * (1 << 30) + 512) // 5) // (4 << 20) + 1))
    )
    content = {"planes": [], "symbols": [parts["symbols"]], "table": [raw]}
    with pytest.raises(IntegrityError):
        decode(pack(entries, content), spec)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fault",
    [
        "declares more",
        "declares nothing",
        "two frames",
        "trailing byte",
        "truncated",
        "not zstd",
        "checks a limit",
    ],
)
def test_a_frame_that_is_not_exactly_the_one_expected_is_refused(fault: str) -> None:
    frame = compress(bytes(1000), level=1)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    frames = {
        "declares more": compress(bytes(1 << 28), level=1),
        "declares nothing": unsized,
        "two frames": frame + frame,
        "trailing byte": frame + b"\0",
        "truncated": frame[:-1],
        "not zstd": b"\x50\x2a\x4d\x18" + frame[4:],
        "checks a limit": compress(bytes(MAX_FRAME_BYTES + 1), level=1),
    }
    with pytest.raises(IntegrityError):
        expand(
            frames[fault],
            MAX_FRAME_BYTES + 1 if fault == "checks a limit" else 1000,
            subject="frame",
        )


def test_a_window_past_the_limit_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=24, write_content_size=1)
    frame = bytearray(
        zstandard.ZstdCompressor(compression_params=parameters).compress(
            np.random.default_rng(0).bytes(MAX_FRAME_BYTES)
        )
    )
    with pytest.raises(IntegrityError, match="window"):
        expand(bytes(frame), MAX_FRAME_BYTES, subject="frame")


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(0, 5000),
    dtype=st.sampled_from([DType.F32, DType.BF16, DType.I64, DType.U8]),
    zeros=st.booleans(),
)
def test_a_tensor_object_gives_back_its_bytes(
    seed: int, size: int, dtype: DType, zeros: bool
) -> None:
    content = (
        bytes(size * dtype.size_bytes)
        if zeros
        else np.random.default_rng(seed).bytes(size * dtype.size_bytes)
    )
    packed = encode_tensor(content, dtype=dtype)
    assert decode_tensor(packed, dtype=dtype, size=len(content)) == content
    with pytest.raises(IntegrityError):
        decode_tensor(packed, dtype=dtype, size=len(content) + dtype.size_bytes)
    with pytest.raises(IntegrityError):
        decode_tensor(packed[:-1], dtype=dtype, size=len(content))


def test_streams_longer_than_a_piece_come_back() -> None:
    raw = np.random.default_rng(0).bytes(1000) * 9000
    pieces = pack_stream(raw)
    assert len(pieces) == len(piece_sizes(len(raw))) == 3
    content, lengths = memoryview(b"".join(pieces)), [len(piece) for piece in pieces]
    assert unpack_streams(content, [len(raw)], lengths, subject="stream") == [raw]


def _damaged(fault: str) -> bytes:
    """The good object with one thing wrong and every length in order."""
    entries, parts = unpack(GOOD_BYTES, PARTS, subject="object")
    content = {key: bytes(part) for key, part in parts.items()}
    if fault == "symbols go on":
        content["symbols"] += b"\0"
    elif fault == "planes go on":
        content["planes"] += b"\0"
    elif fault == "table of unknown kind":
        content["table"] = b"\2" + plain_table(parts["table"])
    elif fault == "member left out":
        del entries["external"]
    elif fault == "unknown member":
        entries["more"] = 1
    elif fault == "unknown kind":
        entries["kind"] = "tensor"
    packed = pack(entries, {key: [part] for key, part in content.items()})
    if fault == "header padded further":
        size = int.from_bytes(packed[:8], "little")
        packed = (
            (size + 8).to_bytes(8, "little") + packed[8 : 8 + size] + b" " * 8 + packed[8 + size :]
        )
    return packed


@pytest.mark.parametrize(
    "fault",
    [
        "symbols go on",
        "planes go on",
        "table of unknown kind",
        "member left out",
        "unknown member",
        "unknown kind",
        "header padded further",
    ],
)
def test_one_value_has_one_form(fault: str) -> None:
    assert_equal(decode(_damaged("nothing"), GOOD_LAYOUT), GOOD)
    with pytest.raises(IntegrityError):
        decode(_damaged(fault), GOOD_LAYOUT)


@pytest.mark.parametrize(
    ("group", "content"),
    [
        (Group(packing=0, shift=16), bytes(1 + 16)),  # -128 << 16 is -2**23
        (Group(packing=1, shift=0), bytes([3**5])),
        (Group(packing=0, shift=0), bytes(2)),
    ],
)
def test_a_symbol_or_byte_out_of_range_or_left_over_is_refused(
    group: Group, content: bytes
) -> None:
    with pytest.raises(IntegrityError):
        decode_rows(memoryview(content), [(1, 1)], np.array([1], np.uint8), [group], [1])


def test_an_error_that_is_not_a_number_is_refused() -> None:
    table = AdapterTable(
        lanes=(Lane(coded=True),),
        terms=((), ()),
        scales=np.ones(2, np.float32),
        errors=np.full(1, np.nan, np.float32),
        groups_of_rows=np.zeros(2, np.uint8),
        groups=(),
        pieces=(),
    )
    with pytest.raises(IntegrityError):
        AdapterTable.from_bytes(memoryview(table.to_bytes()), [1])


@pytest.mark.parametrize("rows", [0, 0x10000])
def test_a_block_of_no_rows_or_of_more_than_its_column_holds_is_refused(rows: int) -> None:
    value, spec = adapter(1, [(2, 5, 4)], terms=1)
    module = value.modules[0]
    assert module is not None
    wide = replace(
        module.a, terms=(replace(module.a.terms[0], coefficients=np.zeros((2, rows), np.int32)),)
    )
    with pytest.raises(IntegrityError, match="of no rows, or of more than 65535"):
        encode(replace(value, modules=(replace(module, a=wide),)), spec)
