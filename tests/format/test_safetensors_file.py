"""The tensor file: the library's files come back byte for byte, and damaged headers are refused."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import load, save

from share_registry.errors import IntegrityError
from share_registry.format.canonical import parse_foreign
from share_registry.format.layout import DType
from share_registry.format.safetensors_file import (
    MAX_HEADER_BYTES,
    Item,
    is_canonical,
    read,
    usual_order,
    write,
)

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}
TORCH |= {"I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}

KEYS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
SHAPES = st.lists(st.integers(0, 4), max_size=4)
FILES = st.dictionaries(
    KEYS.filter(lambda key: key != "__metadata__"),
    st.tuples(st.sampled_from(sorted(TORCH)), SHAPES),
    max_size=8,
)


def make_tensors(files: dict[str, tuple[str, list[int]]]) -> dict[str, torch.Tensor]:
    return {
        key: torch.arange(int(torch.tensor(shape).prod())).reshape(shape).to(TORCH[dtype])
        for key, (dtype, shape) in files.items()
    }


@given(files=FILES, metadata=st.dictionaries(KEYS, st.text(max_size=9), max_size=1))
@settings(deadline=None)
def test_what_the_library_writes_is_written_again_byte_for_byte(
    files: dict[str, tuple[str, list[int]]], metadata: dict[str, str]
) -> None:
    # the library writes empty metadata in two ways
    content = save(make_tensors(files), metadata=metadata or None)
    parsed = read(content, subject="file")
    assert write(parsed.metadata, parsed.tensors) == content
    assert is_canonical(content, parsed)
    assert parsed.metadata == tuple(metadata.items())
    filled = [item for item in parsed.tensors if item.content]
    assert usual_order(reversed(filled)) == filled


@given(files=FILES)
@settings(deadline=None)
def test_the_library_reads_what_is_written(files: dict[str, tuple[str, list[int]]]) -> None:
    tensors = make_tensors(files)
    items = list(read(save(tensors), subject="file").tensors)
    again = load(write([("a", "b"), ("c", "\n\u20ac\x7f")], items))
    assert set(again) == set(tensors)
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


CONTENT = save(
    {"a": torch.ones(3), "b": torch.ones(2, dtype=torch.int8)}, metadata={"format": "pt"}
)


@given(position=st.integers(0, len(CONTENT) - 1), value=st.integers(0, 255))
@settings(deadline=None, max_examples=300)
def test_a_changed_byte_gives_another_file_or_an_integrity_error(position: int, value: int) -> None:
    damaged = CONTENT[:position] + bytes([value]) + CONTENT[position + 1 :]
    try:
        parsed = read(damaged, subject="file")
    except IntegrityError:
        return
    assert sum(len(item.content) for item in parsed.tensors) == 14


@given(size=st.integers(0, len(CONTENT) - 1))
@settings(deadline=None)
def test_a_truncated_file_is_an_integrity_error(size: int) -> None:
    with pytest.raises(IntegrityError):
        read(CONTENT[:size], subject="file")


@given(content=st.binary(max_size=200))
@settings(deadline=None)
def test_noise_is_an_integrity_error(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        read(content, subject="file")
    with pytest.raises(IntegrityError):
        read(len(content).to_bytes(8, "little") + b"{" + content, subject="file")


def file_of(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(
    dtype: Any = "U8", shape: Any = (1,), offsets: Any = (0, 1), **more: Any
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


HEADERS: dict[str, tuple[bytes, str]] = {
    "trailing bytes": (file_of({"a": entry()}, b"xy"), "has 2 bytes of tensors, expected 1"),
    "a tensor past the end": (
        file_of({"a": entry(shape=[4], offsets=[0, 4])}, b"x"),
        "is truncated: tensor 'a' ends at byte 4 of 1",
    ),
    "a hole": (
        file_of({"a": entry(), "b": entry(offsets=[2, 3])}, b"xyz"),
        "'b' of file begins at byte 2, expected 1",
    ),
    "an overlap": (
        file_of(
            {"a": entry(shape=[2], offsets=[0, 2]), "b": entry(shape=[2], offsets=[1, 3])}, b"xyz"
        ),
        "'b' of file begins at byte 1, expected 2",
    ),
    "a size that is not the shape's": (
        file_of({"a": entry(shape=[2])}, b"x"),
        "has 1 bytes, expected 2 for U8 [2]",
    ),
    "offsets reversed": (file_of({"a": entry(offsets=[1, 0])}, b"x"), "has -1 bytes, expected 1"),
    "a negative size": (file_of({"a": entry(shape=[-1])}, b"x"), "expected lists of sizes"),
    "a size that is a truth value": (
        file_of({"a": entry(shape=[True])}, b"x"),
        "expected lists of sizes",
    ),
    "three offsets": (file_of({"a": entry(offsets=[0, 1, 1])}, b"x"), "expected lists of sizes"),
    "an astronomic shape": (file_of({"a": entry(shape=[1 << 50] * 8)}, b"x"), "elements"),
    "too many dimensions": (file_of({"a": entry(shape=[1] * 9)}, b"x"), "expected lists of sizes"),
    "an unknown element type": (
        file_of({"a": entry("F8_E4M3")}, b"x"),
        "element type 'F8_E4M3', expected one of F64, F32",
    ),
    "an element type that is a list": (
        file_of({"a": entry([1])}, b"x"),
        "element type [1], expected one of",
    ),
    "an unknown member": (
        file_of({"a": entry(more=1)}, b"x"),
        "has the members data_offsets, dtype, more, shape, expected",
    ),
    "a tensor that is a number": (file_of({"a": 1}), "has the members int"),
    "a tensor twice": (file_of(b'{"a":{},"a":{}}'), "'a' stands there twice"),
    "metadata that is no text": (
        file_of({"__metadata__": {"a": 1}}),
        "metadata 'a' of file is a int, expected a text",
    ),
    "metadata that is a list": (file_of({"__metadata__": []}), "is a list, expected an object"),
    "an empty name": (file_of({"": entry()}, b"x"), "is not 1 to 512 printable bytes"),
    "a name with a line break": (
        file_of({"a\nb": entry()}, b"x"),
        "is not 1 to 512 printable bytes",
    ),
    "a header that is a list": (file_of(b"[]"), "starts with b'[', expected '{'"),
    "a huge header": ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", "more than the limit"),
    "a header length past the end": ((99).to_bytes(8, "little") + b"{}", "is truncated"),
}


@pytest.mark.parametrize("fault", HEADERS)
def test_a_header_that_lies_is_refused_by_name(fault: str) -> None:
    content, part = HEADERS[fault]
    with pytest.raises(IntegrityError) as caught:
        read(content, subject="file")
    assert part in str(caught.value)


def test_the_writer_refuses_what_it_could_not_read() -> None:
    good = Item(key="a", dtype=DType.F32, shape=(2,), content=b"12345678")
    for items in (
        [good, good],
        [Item(key="a", dtype=DType.F32, shape=(3,), content=b"12345678")],
        [Item(key="__metadata__", dtype=DType.U8, shape=(0,), content=b"")],
    ):
        with pytest.raises(IntegrityError):
            write([("format", "pt")], items)
    with pytest.raises(IntegrityError):
        write([("a", "1"), ("a", "2")], [good])


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 53) + 1, (1 << 53) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(value=st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
@settings(deadline=None)
def test_foreign_json_keeps_values_and_order(value: dict[str, Any]) -> None:
    parsed = parse_foreign(json.dumps(value).encode(), subject="file", limit=1 << 20)
    assert parsed == value
    assert list(parsed) == list(value)


@given(content=st.binary(max_size=80))
@settings(deadline=None)
def test_noise_is_no_foreign_json(content: bytes) -> None:
    try:
        parsed = parse_foreign(content, subject="file", limit=1 << 20)
    except IntegrityError:
        return
    assert isinstance(parsed, dict)


def test_a_header_in_another_form_is_not_canonical() -> None:
    for content in (
        file_of({"a": entry()}, b"x"),
        file_of(b'{"a":{"shape":[1],"dtype":"U8","data_offsets":[0,1]}}', b"x"),
    ):
        assert not is_canonical(content, read(content, subject="file"))
