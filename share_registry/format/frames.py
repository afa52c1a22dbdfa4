"""zstd frames with every limit checked before memory is taken, and the byte planes of tensors kept verbatim (spec FRM-01 to FRM-08).

A stream is cut into pieces of at most 4 MiB. A piece is one zstd frame, or the bytes themselves
where a frame would not be shorter; the reader knows both lengths beforehand: equal lengths mean the
bytes themselves.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from share_registry.errors import IntegrityError

PIECE_BYTES: Final = 4 << 20
MAX_FRAME_BYTES: Final = 16 << 20
MAX_WINDOW_BYTES: Final = 8 << 20
FAST: Final = 1
SMALLEST: Final = 19
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SLOW_LIMIT: Final = 1 << 20


def compress(raw: bytes, *, level: int) -> bytes:
    """Return one frame with its content size, without checksum or dictionary.

    The object's digest covers it.
    """
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, source_size=len(raw), write_content_size=1, write_checksum=0, write_dict_id=0
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(raw)


def expand(frame: bytes | memoryview, size: int, *, what: str) -> bytes:
    """Decompress one frame of exactly `size` bytes.

    Raises:
        IntegrityError: not one whole frame, a declared size other than `size`, a limit passed, or a
            dictionary asked for.
    """
    if bytes(frame[:4]) != _MAGIC or size > MAX_FRAME_BYTES:
        raise IntegrityError(f"{what} is not a zstd frame of at most {MAX_FRAME_BYTES} bytes.")
    try:
        found = zstandard.get_frame_parameters(frame)
        if found.content_size != size or found.window_size > MAX_WINDOW_BYTES or found.dict_id:
            raise IntegrityError(
                f"{what} declares {found.content_size} bytes and a window of {found.window_size}, expected {size} and at most {MAX_WINDOW_BYTES}."
            )
        content = zstandard.ZstdDecompressor().decompress(
            frame, max_output_size=size, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise IntegrityError(f"{what} is not a whole zstd frame: {error}.") from error
    if len(content) != size:
        raise IntegrityError(f"{what} holds {len(content)} bytes, expected {size}.")
    return content


def declared_size(frame: bytes | memoryview, *, what: str) -> int:
    """Return the size a frame declares, at most 16 MiB. Raises IntegrityError."""
    try:
        size = zstandard.get_frame_parameters(frame).content_size
    except zstandard.ZstdError as error:
        raise IntegrityError(f"{what} is not a zstd frame: {error}.") from error
    if size > MAX_FRAME_BYTES:  # also what zstd answers where the size is unknown
        raise IntegrityError(
            f"{what} declares {size} bytes, more than the limit of {MAX_FRAME_BYTES}, or none."
        )
    return int(size)


def piece_sizes(size: int) -> list[int]:
    """Return the lengths of the pieces that a stream of `size` bytes is cut into."""
    return [PIECE_BYTES] * (size // PIECE_BYTES) + (
        [size % PIECE_BYTES] if size % PIECE_BYTES else []
    )


def pack_stream(raw: bytes, *, levels: Sequence[int] | None = None) -> list[bytes]:
    """Return a stream's pieces, each as short as one of the levels makes it."""
    return [
        _pack_piece(raw[start : start + PIECE_BYTES], levels)
        for start in range(0, len(raw), PIECE_BYTES)
    ]


def unpack_stream(stored: Sequence[memoryview], size: int, *, what: str) -> bytes:
    """Return the stream of `size` bytes whose pieces these are. Raises IntegrityError."""
    sizes = piece_sizes(size)
    if len(sizes) != len(stored):
        raise IntegrityError(f"{what} has {len(stored)} pieces, expected {len(sizes)}.")
    found = [
        _unpack_piece(piece, expected, what) for piece, expected in zip(stored, sizes, strict=True)
    ]
    return found[0] if len(found) == 1 else b"".join(found)


def unpack_streams(
    content: memoryview, sizes: Sequence[int], lengths: Sequence[int], *, what: str
) -> list[bytes]:
    """Return streams of these sizes, whose pieces of these stored lengths lie one after another in `content`. Raises IntegrityError."""
    if sum(lengths) != len(content) or sum(len(piece_sizes(size)) for size in sizes) != len(
        lengths
    ):
        raise IntegrityError(
            f"{what} has {len(content)} bytes in {len(lengths)} pieces, its table says {sum(lengths)}."
        )
    streams, position, taken = [], 0, 0
    for size in sizes:
        stored = []
        for length in lengths[taken : taken + len(piece_sizes(size))]:
            stored.append(content[position : position + length])
            position += length
        taken += len(stored)
        streams.append(unpack_stream(stored, size, what=what))
    return streams


def planes(content: bytes, width: int) -> Iterator[bytes]:
    """Yield the byte planes of little-endian elements of `width` bytes, lowest byte first."""
    table = np.frombuffer(content, np.uint8).reshape(-1, width)
    for plane in range(width):
        yield table[:, plane].tobytes()


def from_planes(parts: Sequence[bytes]) -> bytes:
    """Return the elements whose byte planes these are."""
    table: NDArray[np.uint8] = np.empty((len(parts[0]), len(parts)), np.uint8)
    for plane, part in enumerate(parts):
        table[:, plane] = np.frombuffer(part, np.uint8)
    return table.tobytes()


def _pack_piece(raw: bytes, levels: Sequence[int] | None) -> bytes:
    if levels is None:
        levels = (FAST, SMALLEST) if len(raw) <= _SLOW_LIMIT else (FAST,)
    best = min((compress(raw, level=level) for level in levels), key=len)
    return best if len(best) < len(raw) else raw


def _unpack_piece(piece: memoryview, size: int, what: str) -> bytes:
    return bytes(piece) if len(piece) == size else expand(piece, size, what=what)
