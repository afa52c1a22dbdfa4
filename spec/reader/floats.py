"""Chapter 05, TAB-10 and FRM-07 to FRM-12: tensors kept bit for bit."""

from types import SimpleNamespace

import numpy as np

from spec.reader.layout import WIDTHS
from spec.reader.refusals import need

# Bits of a number, and of its tail (spec FRM-09)
SPLIT = {"F32": (32, 20), "BF16": (16, 4), "F16": (16, 8)}
ESCAPE = 255


# What lies in `planes`, of tensors (position, dtype, elements): single tensors, then groups of
# floats (spec FRM-08, FRM-12)
def parts(cursor, kept, split):
    count = cursor.column(1)[0] if split else 0
    numbers = cursor.column(len(kept)) if split else [0] * len(kept)
    placed = list(zip(numbers, kept, strict=True))
    types = {(number, dtype) for number, (_, dtype, _) in placed if number}
    need(
        sorted(number for number, _ in types) == list(range(1, count + 1)),
        "TAB-10",
        "a group of floats that is not there, not used, or of two types",
    )
    need({dtype for _, dtype in types} <= {*SPLIT}, "TAB-10", "a type that is not split")
    bases = iter(cursor.column(sum(map(bool, numbers)), 2))
    found = [group(dtype, 0) for _, dtype in sorted(types)]
    for number, (index, _, size) in placed:
        if number:
            add(found[number - 1], index, size, next(bases), "TAB-10")
    for made, escapes in zip(found, cursor.column(count, 5), strict=True):
        need(escapes <= sum(made.sizes), "FRM-11", "more escapes than numbers")
        made.escapes = escapes
    whole = [(index, dtype, size) for number, (index, dtype, size) in placed if not number]
    return [*(single(*tensor) for tensor in whole), *found]


def single(index, dtype, size):
    return SimpleNamespace(dtype=dtype, indices=[index], sizes=[size], bases=[])


def group(dtype, escapes):
    return SimpleNamespace(dtype=dtype, indices=[], sizes=[], bases=[], escapes=escapes)


def add(made, index, size, base, clause):
    bits, tail = SPLIT[made.dtype]
    need(base >> bits - tail == 0, clause, "a base that is no head")
    for values, value in ((made.indices, index), (made.sizes, size), (made.bases, base)):
        values.append(value)


# Sizes of the streams of a part (spec FRM-07, FRM-10)
def streams(part):
    size = sum(part.sizes)
    if not part.bases:
        return [size] * WIDTHS[part.dtype]
    whole, half = divmod(SPLIT[part.dtype][1], 8)
    halves = [sum(-(-each // 2) for each in part.sizes)] if half else []
    return [size, 2 * part.escapes, *[size] * whole, *halves]


# The tensors of a part by position (spec FRM-07, FRM-10)
def read(part, cursor, lengths):
    made = [np.frombuffer(cursor.stream(size, lengths), np.uint8) for size in streams(part)]
    if not part.bases:
        return {part.indices[0]: np.stack(made, axis=1).tobytes()}
    (bits, tail), (codes, escaped, *tails) = SPLIT[part.dtype], made
    escapes = escaped.view("<u2").astype(np.int64)
    far = codes == ESCAPE
    need(far.sum() == len(escapes), "FRM-11", f"{far.sum()} codes with an escape")
    need(not (escapes >> bits - tail).any(), "FRM-11", "an escape that is no head")
    heads = (np.repeat(part.bases, part.sizes) + codes) % (1 << bits - tail)
    heads[far] = escapes
    turned = heads << tail
    for byte in range(tail // 8):
        turned |= tails[byte].astype(np.int64) << 8 * byte
    if tail % 8:
        turned |= halves_of(tails[-1], part.sizes) << tail // 8 * 8
    numbers = turned >> 1 | (turned & 1) << bits - 1
    ends = np.cumsum(part.sizes)[:-1]
    return {
        index: values.astype(f"<u{bits // 8}").tobytes()
        for index, values in zip(part.indices, np.split(numbers, ends), strict=True)
    }


# Four bits of each number; every tensor begins with a byte of its own
def halves_of(packed, sizes):
    pairs, start, made = np.stack([packed & 15, packed >> 4], axis=1), 0, []
    for size in sizes:
        end = start - (-size // 2)
        made.append(pairs[start:end].reshape(-1)[:size])
        start = end
    return np.concatenate(made).astype(np.int64)
