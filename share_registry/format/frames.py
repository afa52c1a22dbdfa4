"""zstd frames, every limit checked before memory is taken, and byte planes (spec FRM-01 to FRM-08).

A stream is cut into pieces of at most 4 MiB. A piece is one zstd frame, or the bytes themselves
where a frame would not be shorter; the reader knows both lengths beforehand: equal lengths mean the
bytes themselves.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice, pairwise
from typing import Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from share_registry.errors import IntegrityError
from share_registry.format.canonical import require

PIECE_BYTES: Final = 4 << 20
_ENTROPY: Final = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST,
    min_match=7,
    hash_log=6,
    window_log=17,
    write_content_size=1,
    write_checksum=0,
    write_dict_id=0,
)
MAX_FRAME_BYTES: Final = 16 << 20
MAX_WINDOW_BYTES: Final = 8 << 20
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_FAST: Final = 1
_SLOW: Final = 19
# Bytes from which on a stretch of a piece is tried before the piece
_PROBED: Final = 1 << 16
_PROBE: Final = 1 << 14
# Bytes up to which the slow level may be tried
_SLOW_LIMIT: Final = 1 << 17


def compress(raw: bytes | memoryview, *, level: int) -> bytes:
    """Return one frame with its content size, without checksum (the digest covers it)."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, source_size=len(raw), write_content_size=1, write_checksum=0, write_dict_id=0
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(raw)


def compress_entropy(raw: bytes | memoryview) -> bytes:
    """Return one frame of bytes that hardly repeat, such as packed symbols.

    A small table of long matches leaves nearly all of them to the entropy coder: measured on
    symbols, frames of level 1's time are smaller than those of level 19.
    """
    return zstandard.ZstdCompressor(compression_params=_ENTROPY).compress(raw)


def compress_small(raw: bytes) -> bytes:
    """Return the shortest frame that is found of bytes that may repeat, such as a table."""
    levels = (_FAST, _SLOW) if len(raw) <= _SLOW_LIMIT else (_FAST,)
    return min((compress(raw, level=level) for level in levels), key=len)


def expand(frame: bytes | memoryview, size: int, *, subject: str) -> bytes:
    """Decompress one frame of exactly `size` bytes.

    Raises:
        IntegrityError: not one whole frame, a declared size other than `size`, a limit passed, or a
            dictionary asked for.
    """
    require(
        bytes(frame[:4]) == _MAGIC and size <= MAX_FRAME_BYTES,
        f"{subject} is not a zstd frame of at most {MAX_FRAME_BYTES} bytes.",
    )
    try:
        head = zstandard.get_frame_parameters(frame)
        require(
            head.content_size == size and head.window_size <= MAX_WINDOW_BYTES and not head.dict_id,
            f"{subject} declares {head.content_size} bytes and a window of {head.window_size}, "
            f"expected {size} and at most {MAX_WINDOW_BYTES}.",
        )
        content = zstandard.ZstdDecompressor().decompress(
            frame, max_output_size=size, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise IntegrityError(f"{subject} is not a whole zstd frame: {error}.") from error
    require(len(content) == size, f"{subject} holds {len(content)} bytes, expected {size}.")
    return content


def declared_size(frame: bytes | memoryview, *, subject: str) -> int:
    """Return the size a frame declares, at most 16 MiB. Raises IntegrityError."""
    try:
        size = zstandard.get_frame_parameters(frame).content_size
    except zstandard.ZstdError as error:
        raise IntegrityError(f"{subject} is not a zstd frame: {error}.") from error
    # where the size is unknown, zstd answers a number past the limit
    require(
        size <= MAX_FRAME_BYTES,
        f"{subject} declares {size} bytes, more than the limit of {MAX_FRAME_BYTES}, or none.",
    )
    return int(size)


def piece_sizes(size: int) -> list[int]:
    """Return the lengths of the pieces that a stream of `size` bytes is cut into."""
    return [min(PIECE_BYTES, size - start) for start in range(0, size, PIECE_BYTES)]


def pack_stream(raw: bytes | memoryview) -> list[bytes | memoryview]:
    """Return a stream's pieces, each a frame where that is shorter."""
    return [
        _pack_piece(raw[start : start + PIECE_BYTES]) for start in range(0, len(raw), PIECE_BYTES)
    ]


def unpack_streams(
    content: memoryview, sizes: Sequence[int], lengths: Sequence[int], *, subject: str
) -> list[bytes]:
    """Return streams of these sizes, whose pieces lie one after another in `content`.

    Args:
        content: The pieces.
        sizes: Bytes of each stream.
        lengths: Stored bytes of each piece.
        subject: How messages name it.

    Raises:
        IntegrityError: lengths that do not fit, or a damaged piece.
    """
    streams = [piece_sizes(size) for size in sizes]
    require(
        sum(lengths) == len(content) and sum(map(len, streams)) == len(lengths),
        f"{subject} has {len(content)} bytes in {len(lengths)} pieces, "
        f"its table says {sum(lengths)}.",
    )
    pieces = iter([content[start:end] for start, end in pairwise(accumulate(lengths, initial=0))])
    return [
        b"".join(
            bytes(piece) if len(piece) == whole else expand(piece, whole, subject=subject)
            for whole, piece in zip(wholes, islice(pieces, len(wholes)), strict=True)
        )
        for wholes in streams
    ]


def planes(content: bytes, width: int) -> Iterator[bytes]:
    """Yield the byte planes of little-endian elements of `width` bytes, lowest byte first."""
    yield from (plane.tobytes() for plane in np.frombuffer(content, np.uint8).reshape(-1, width).T)


def from_planes(parts: Sequence[bytes]) -> bytes:
    """Return the elements whose byte planes these are."""
    table: NDArray[np.uint8] = np.empty((len(parts[0]), len(parts)), np.uint8)
    for plane, part in enumerate(parts):
        table[:, plane] = np.frombuffer(part, np.uint8)
    return table.tobytes()


def _pack_piece(raw: bytes | memoryview) -> bytes | memoryview:
    if len(raw) <= _PROBED:
        return min((raw, compress_entropy(raw), compress(raw, level=_FAST)), key=len)
    # a stretch from the middle tells which of the two shortens more
    begin = len(raw) // 2
    probe = raw[begin : begin + _PROBE]
    repeats = len(compress(probe, level=_FAST)) < len(compress_entropy(probe))
    return min((raw, compress(raw, level=_FAST) if repeats else compress_entropy(raw)), key=len)
