"""Chapter 05, OBJ, TAB, SYM and FRM: binary objects, and the numbers in their parts."""

import json
from itertools import accumulate

import numpy as np
import zstandard

from spec.reader.canonical import parse
from spec.reader.refusals import DamagedError, need

MAX_JSON = MAX_HEADER = MAX_FRAME = 16 << 20
MAX_WINDOW = 8 << 20
PIECE = 4 << 20
MAX_BITS = 23
MAX_RATIO = 320_000
MAX_SHIFT = 16
PACKINGS = ((256, 1), (3, 5), (3, 4), (5, 3), (7, 2), (9, 2), (11, 2), (15, 2))


# The canonical file of tensors (key, dtype, shape, bytes) (spec OBJ-05)
def safetensors(metadata, tensors):
    header, position = {"__metadata__": dict(metadata)} if metadata else {}, 0
    for key, dtype, shape, content in tensors:
        header[key] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [position, position + len(content)],
        }
        position += len(content)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join(
        [len(text).to_bytes(8, "little"), text, *(content for _, _, _, content in tensors)]
    )


# The description and the parts of a binary object (spec OBJ-04, OBJ-05)
def unpack(content, kind, clause, keys):
    size = int.from_bytes(content[:8], "little")
    need(
        len(content) >= 10 and size <= min(MAX_HEADER, len(content) - 8),
        "OBJ-04",
        "cut short, or a header that is too long",
    )
    try:
        header = json.loads(content[8 : 8 + size].decode())
        text = header["__metadata__"]["share_registry"]
        parts = [
            content[8 + size + begin : 8 + size + end]
            for begin, end in (header[key]["data_offsets"] for key in keys)
        ]
        made = safetensors(
            [("share_registry", text)],
            [(key, "U8", [len(part)], part) for key, part in zip(keys, parts, strict=True)],
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"OBJ-04: not the parts of this object: {error!r:.80}") from error
    need(made == content, "OBJ-05", "not in canonical form")
    return parse(text.encode(), kind, clause), parts


# The content of one zstd frame, of the size it declares where none is given (spec FRM-03 to FRM-06)
def expand(frame, size=None):
    need(frame[:4] == b"\x28\xb5\x2f\xfd", "FRM-03", "no frame")
    try:
        found = zstandard.get_frame_parameters(frame)
        need(
            size in (None, found.content_size) and found.content_size <= MAX_FRAME,
            "FRM-03",
            "no frame of this size",
        )
        need(found.window_size <= MAX_WINDOW, "FRM-04", f"a window of {found.window_size} bytes")
        need(not found.dict_id, "FRM-05", "a dictionary")
        content = zstandard.ZstdDecompressor().decompress(
            frame,
            max_output_size=found.content_size,
            read_across_frames=False,
            allow_extra_data=False,
        )
    except zstandard.ZstdError as error:
        raise DamagedError(f"FRM-05: {error}") from error
    need(len(content) == found.content_size, "FRM-06", "another size than declared")
    return content


class Cursor:
    def __init__(self, content, clause):
        table = clause == "TAB-09"
        need(not table or content[:1] in (b"\0", b"\1"), "TAB-01", "neither plain nor a frame")
        self.content, self.clause = (
            expand(content[1:]) if table and content[0] else content[table:],
            clause,
        )
        self.groups = self.column(1)[0] if table else 0

    def take(self, count):
        need(
            count <= len(self.content),
            self.clause,
            f"{count} bytes wanted, {len(self.content)} left",
        )
        taken, self.content = self.content[:count], self.content[count:]
        return taken

    # Numbers whose bytes lie as planes, high byte first (spec TAB-02)
    def column(self, count, width=1):
        planes = (
            np.frombuffer(self.take(count * width), np.uint8).reshape(width, count).astype(np.int64)
        )
        return sum(
            (plane << 8 * (width - 1 - place) for place, plane in enumerate(planes)),
            np.zeros(count, np.int64),
        ).tolist()

    # A stream, piece by piece (spec FRM-01, FRM-02)
    def stream(self, size, lengths):
        stored = [
            (min(PIECE, size - start), self.take(next(lengths))) for start in range(0, size, PIECE)
        ]
        return b"".join(
            piece if len(piece) == whole else expand(piece, whole) for whole, piece in stored
        )

    # The symbols of one group (spec SYM-03 to SYM-08)
    def symbols(self, count, packing, shift, lengths):
        base, per = PACKINGS[packing]
        values = np.frombuffer(self.stream(-(-count // per), lengths), np.uint8).astype(np.int64)
        need(not (values >= base**per).any(), "SYM-05", "a byte that is no packed symbols")
        symbols = (
            np.stack(
                [values // base**place % base for place in reversed(range(per))], axis=1
            ).reshape(-1)[:count]
            - base // 2
        ) << shift
        for bit in range(shift):
            plane = np.frombuffer(self.take(-(-count // 8)), np.uint8)
            symbols |= np.unpackbits(plane, count=count, bitorder="little").astype(np.int64) << bit
        need(not (np.abs(symbols) >> MAX_BITS).any(), "SYM-08", "a symbol of 2**23 or more")
        return symbols.astype(np.int32)

    # Arrays of these shapes, and the lengths left; the columns of floats say what streams of
    # `planes` there are (spec TAB-06 to TAB-10, SYM-01, SYM-09)
    def rows(self, shapes, symbols, floats=lambda cursor: ()):
        group_of_row = np.array(self.column(sum(number for number, _ in shapes)), int)
        widths = [width for number, width in shapes for _ in range(number)]
        need((group_of_row <= self.groups).all(), "TAB-06", "a row of a group that is not there")
        groups = list(zip(self.column(self.groups), self.column(self.groups), strict=True))
        need(
            all(packing < len(PACKINGS) and shift <= MAX_SHIFT for packing, shift in groups),
            "TAB-07",
            "an unknown packing or shift",
        )
        streams = floats(self)
        need(len(self.content) % 3 == 0, "TAB-08", "a length cut short")
        lengths = self.column(len(self.content) // 3, 3)
        members = [
            np.flatnonzero(group_of_row == number).tolist() for number in range(1, self.groups + 1)
        ]
        sizes = [sum(widths[row] for row in rows) for rows in members]
        packed = [
            -(-size // PACKINGS[packing][1])
            for size, (packing, _) in zip(sizes, groups, strict=True)
        ]
        need(
            sum(-(-size // PIECE) for size in [*packed, *streams]) == len(lengths),
            "TAB-08",
            f"{len(lengths)} lengths",
        )
        need(
            sum(sizes) <= MAX_RATIO * max(1, len(symbols)),
            "SYM-09",
            "more numbers than frames can hold",
        )
        left, cursor, made = (
            iter(lengths),
            Cursor(symbols, "SYM-07"),
            [],
        )
        # rows of zeros alone take no memory
        for shape, start in zip(shapes, accumulate(shape[0] for shape in shapes), strict=True):
            coded = group_of_row[start - shape[0] : start].any()
            made.append(np.zeros(shape, np.int32) if coded else np.broadcast_to(np.int32(0), shape))
        flat = [row for block in made for row in block]
        for rows, size, group in zip(members, sizes, groups, strict=True):
            values = cursor.symbols(size, *group, left)
            for row in rows:
                flat[row][:], values = values[: widths[row]], values[widths[row] :]
        return cursor.all(iter(made)), left

    def all(self, taken):
        need(not self.content, self.clause, "bytes left over")
        return taken
