"""Mutations of bytes that know what the bytes are: JSON, the header of a binary object, frames."""

import json
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import zstandard

_NUMBERS: Final = (
    *(0, 1, -1, 2, 7, 8, 16, 17, 127, 128, 255, 256, 65_535, 65_536, 1 << 20, 1 << 24),
    *((1 << 31) - 1, 1 << 31, 1 << 32, 1 << 40, (1 << 53) - 1, 1 << 53, 1 << 63, 1 << 64),
    *(10**17, 10**400, 0.5, -0.0, 1e308, 1e-320),
)
_TEXTS: Final = (
    *("", "a", "..", "/", "a/b", "con", "v1", "c1", "latest", "\0", "\n", "\x1b[31m", "\u202e"),
    *("\ud800", "\U0001f600", "é", "0" * 64, "f" * 64, "1e999", "nan", "x" * 513, "x" * 70_000),
    *("2026-02-30", "2026-11-16T20:38:00.000000Z", "(a|a)*" * 20, "(" * 3000, "a{9999999999}"),
    *("__metadata__", "share_registry", "F64", "U8", "experts", "adapter", "basis", "tensor"),
)
_ENDS: Final = (0, 1, 7, 8, 9, (1 << 24) + 8, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)
_MAX_FRAME: Final = 1 << 20
_DEEP: Final = 2000

Mutation = Callable[[bytes, Random, Sequence[bytes]], bytes]


def mutate(content: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    """Return bytes that differ from some others in one to four ways."""
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        content = rng.choice(_kinds(content))(content, rng, corpus)
    return content


def _kinds(content: bytes) -> Sequence[Mutation]:
    if content[:1] in (b"{", b"["):
        return (*_ANY, *[_json] * 15)
    if _header_end(content) is not None:
        return (*_ANY, *[_header] * 6, *[_frames] * 6)
    return _ANY


def _flip(content: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _put(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    """Write a number over some bytes, or put it between them."""
    place = rng.randrange(len(content) + 1)
    number = rng.choice(_NUMBERS[:22])
    size = rng.choice((1, 2, 4, 8))
    raw = (int(number) % (1 << 8 * size)).to_bytes(size, rng.choice(("little", "big")))
    return content[:place] + raw + content[place + rng.choice((0, size)) :]


def _cut(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    first, last = sorted(rng.randrange(len(content) + 1) for _ in "ab")
    return rng.choice((content[:first], content[first:], content[:first] + content[last:]))


def _repeat(content: bytes, rng: Random, _: Sequence[bytes]) -> bytes:
    first, last = sorted(rng.randrange(len(content) + 1) for _ in "ab")
    return content[:last] + content[first:last][:4096] * rng.choice((1, 2, 9)) + content[last:]


def _splice(content: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    other = rng.choice(corpus)
    place = rng.randrange(len(content) + 1)
    return content[:place] + other[rng.choice((place, rng.randrange(len(other) + 1))) :]


_ANY: Final[tuple[Mutation, ...]] = (_flip, _put, _cut, _repeat, _splice)


def _json(content: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    """Replace a value by one of another type, or add, remove or double members."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return _flip(content, rng, corpus)
    for _ in range(rng.choice((1, 1, 1, 3))):
        value = _change(value, rng)
    return _dump(value, rng)


def _dump(value: object, rng: Random) -> bytes:
    # canonical nearly always: else all of them would end at the first check
    canonical = rng.random() < 0.95
    try:
        text = json.dumps(
            value,
            sort_keys=canonical,
            separators=(",", ":") if canonical else None,
            ensure_ascii=not canonical,
        )
    except RecursionError:
        text = "[" * _DEEP
    return text.encode("utf-8", "surrogatepass").replace(b'"\\\\deep"', b"[" * 40 + b"]" * 40)


def _change(value: Any, rng: Random) -> Any:
    """Return a JSON value with one node changed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(list(value))
        if rng.random() < 0.75:
            return value | {name: _change(value[name], rng)}
        rest = {key: item for key, item in value.items() if key != name}
        return rng.choice((rest, rest | {_text(rng)[:99]: value[name]}, value | {"x": _any(rng)}))
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        if rng.random() < 0.7:
            return [*value[:place], _change(value[place], rng), *value[place + 1 :]]
        return rng.choice((value[:place], value * 2, value[::-1], [*value, value[place]]))
    if isinstance(value, int) and rng.random() < 0.4:
        return value + rng.choice((-1, 1))
    if isinstance(value, str) and rng.random() < 0.3:
        place = rng.randrange(len(value) + 1)
        return value[:place] + _text(rng)[:20] + value[place + rng.randrange(3) :]
    return _any(rng)


def _any(rng: Random) -> Any:
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: rng.choice(_NUMBERS),
        lambda: _text(rng),
        lambda: rng.choice((None, True, False)),
        list,
        dict,
        lambda: [_any(rng)],
        lambda: {_text(rng)[:99]: _any(rng)},
        lambda: "\\deep",
        lambda: [rng.choice(_NUMBERS)] * rng.choice((2, 9, 100)),
        lambda: [{"name": _text(rng), "value": _text(rng)}],
    )
    return rng.choice(kinds)()


def _text(rng: Random) -> str:
    return rng.choice(_TEXTS)


def _header_end(content: bytes) -> int | None:
    """Return where the header of a safetensors file ends, None where it is none."""
    size = int.from_bytes(content[:8], "little")
    return 8 + size if 2 <= size <= len(content) - 8 and content[8:9] == b"{" else None


def _header(content: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    """Change the header of a safetensors file, or the JSON of a text in its metadata."""
    end = _header_end(content)
    try:
        header = json.loads(content[8:end])
        metadata = header["__metadata__"]
        name = rng.choice(list(metadata))
        if rng.random() < 0.8:
            metadata[name] = _json(metadata[name].encode(), rng, corpus).decode(
                "utf-8", "surrogatepass"
            )
        else:
            header = _change(header, rng)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return _flip(content, rng, corpus)
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )
    raw += b" " * (-len(raw) % 8)
    size = len(raw) if rng.random() < 0.95 else rng.choice(_ENDS)
    return struct.pack("<Q", size) + raw + content[end:]


def _frames(content: bytes, rng: Random, corpus: Sequence[bytes]) -> bytes:
    """Change what a frame of a tensor holds, and say the new size in the header."""
    end = _header_end(content) or 0
    try:
        header = json.loads(content[8:end])
        names = [name for name in header if name != "__metadata__"]
        name = rng.choice(names)
        first, last = header[name]["data_offsets"]
        body = content[end + first : end + last]
        place = body.find(b"\x28\xb5\x2f\xfd", rng.randrange(len(body) + 1) if body else 0)
        changed = _recompress(body, max(place, 0), rng, corpus)
        growth = len(changed) - len(body)
        for item in (header[name] for name in names):
            item["data_offsets"] = [
                offset + growth * (offset >= last and item["data_offsets"][1] >= last)
                for offset in item["data_offsets"]
            ]
        header[name]["data_offsets"][0] = first
        header[name]["shape"] = [len(changed)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return _flip(content, rng, corpus)
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )
    raw += b" " * (-len(raw) % 8)
    body = content[end : end + first] + changed + content[end + last :]
    return struct.pack("<Q", len(raw)) + raw + body


def _recompress(body: bytes, place: int, rng: Random, corpus: Sequence[bytes]) -> bytes:
    """Return the bytes of a tensor with the contents of one of its frames changed."""
    reader = zstandard.ZstdDecompressor(max_window_size=1 << 24).decompressobj()
    try:
        raw = reader.decompress(body[place : place + _MAX_FRAME])
        rest = reader.unused_data + body[place + _MAX_FRAME :]
    except zstandard.ZstdError:
        return rng.choice(_ANY)(body, rng, corpus)
    raw = rng.choice(_ANY)(raw[:_MAX_FRAME], rng, [raw or b"\0"])
    if rng.random() < 0.03:
        raw = bytes(rng.choice((1 << 16, 1 << 22, (1 << 24) + 1)))
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=rng.random() < 0.95)
    frame = compressor.compress(raw)
    # declares another size than it has
    if rng.random() < 0.1:
        frame = frame[:4] + _put(frame[4:14], rng, corpus) + frame[14:]
    return body[:place] + frame + rest
