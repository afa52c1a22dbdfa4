"""Chapter 06: from integers to tensors, the same bytes on every machine."""

from functools import reduce

import numpy as np

from spec.reader.layout import FLOATS
from spec.reader.objects import parse_adapter, parse_basis, parse_tensor
from spec.reader.refusals import need

MAX_CHAIN = 8
MAX_PRODUCT_BITS = 45


# An adapter object, float32 factors of each module, its tensors (spec DEC-02, DEC-05,
# DEC-08 to DEC-11)
def decode(store, digest, depth=0):
    need(depth <= MAX_CHAIN, "DEC-09", f"a chain of more than {MAX_CHAIN} previous versions")
    adapter = parse_adapter(store.get(digest), store.get, store.size)
    before = (
        decode(store, adapter.header["previous"], depth + 1)[1]
        if "previous" in adapter.header
        else {}
    )
    blocks = [blocks_of(store, source) for source in adapter.header["sources"]]
    layout, rows, names = adapter.layout, {}, iter(adapter.modules)
    specs = layout["tensors"]
    tensors = adapter.kept | {
        index: parse_tensor(store.get(place), specs[index], "heads" in adapter.header)
        for index, place in adapter.external.items()
    }
    for factor in layout["factors"]:
        a, b, experts = factor["a"], factor["b"], factor["experts"]
        mine = [next(names) for _ in range(experts)]
        if a in tensors:
            rows |= zip(mine, kept_rows(specs, tensors, factor), strict=True)
            continue
        for name in mine:
            offered = [block.get(name) for block in blocks]
            rows[name] = [
                decode_side(side, which, offered, before.get(name))
                for which, side in enumerate(adapter.modules[name])
            ]
        tensors[a] = rounded(np.concatenate([rows[name][0] for name in mine]), specs[a]["dtype"])
        columns = np.stack([rows[name][1] for name in mine], axis=2).transpose(1, 0, 2)
        tensors[b] = rounded(columns, specs[b]["dtype"])
    return adapter, rows, tensors


# The rows of each module of a pair that is kept bit for bit (spec DEC-05, DEC-10)
def kept_rows(specs, tensors, factor):
    a, b = (
        widen(tensors[index], specs[index]["dtype"]).reshape(specs[index]["shape"][0], -1)
        for index in (factor["a"], factor["b"])
    )
    rank = len(a) // factor["experts"]
    for e in range(factor["experts"]):
        yield a[e * rank : (e + 1) * rank], b[:, e :: factor["experts"]].T


# The rows that an adapter or basis object offers, by module and side (spec DEC-02)
def blocks_of(store, digest):
    content = store.get(digest)
    basis = rb"\"kind\":\"basis\"" in content[: 8 + int.from_bytes(content[:8], "little")]
    return parse_basis(content) if basis else parse_adapter(content, store.get, store.size).modules


# A factor (spec DEC-01 to DEC-07)
def decode_side(side, which, blocks, before):
    products = []
    for (source, exponent, k), coefficients in zip(side.terms, side.coefficients, strict=True):
        need(
            blocks[source] and blocks[source][which].own.shape == (k, side.width),
            "DEC-02",
            "no block of this module and shape",
        )
        own = blocks[source][which].own
        bits = (
            int(abs(coefficients).max()).bit_length()
            + int(abs(own).max()).bit_length()
            + (k - 1).bit_length()
        )
        need(bits <= MAX_PRODUCT_BITS, "DEC-03", f"products of {bits} bits")
        products.append((coefficients.astype(np.float64) @ own.astype(np.float64)) * 2.0**exponent)
    made = (
        reduce(np.add, [*products, side.own.astype(np.float64)])
        * side.scales.astype(np.float64)[:, None]
    )
    need(
        not side.previous or (before and before[which].shape == made.shape),
        "DEC-05",
        "no previous factor of this module and shape",
    )
    with np.errstate(over="ignore"):
        return (before[which].astype(np.float64) + made if side.previous else made).astype(
            np.float32
        )


def widen(content, dtype):
    values = np.frombuffer(content, FLOATS[dtype])
    return (
        (values.astype(np.uint32) << 16).view(np.float32)
        if dtype == "BF16"
        else values.astype(np.float32)
    )


# Little-endian bytes of float32 values in an element type, to nearest even (spec DEC-08)
def rounded(values, dtype):
    bits = np.ascontiguousarray(values).reshape(-1).view(np.uint32)
    with np.errstate(over="ignore"):
        made = (
            ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
            if dtype == "BF16"
            else bits.view(np.float32).astype(FLOATS[dtype])
        )
    need(
        np.isfinite(widen(made.tobytes(), dtype)).all(),
        "DEC-08",
        f"a value that {dtype} does not hold",
    )
    return made.tobytes()
