"""Chapter 05, ADP, BAS and TEN: adapter, basis and tensor objects."""

from math import prod
from types import SimpleNamespace

import numpy as np

from spec.reader import floats
from spec.reader.binary import PIECE, Cursor, unpack
from spec.reader.canonical import MAX_JSON
from spec.reader.layout import WIDTHS, parse_layout
from spec.reader.refusals import LargeError, need

MAX_NUMBERS = 1 << 32
MAX_TERMS = 64
LEAST_COEFFICIENTS, COEFFICIENTS_PER_BYTE = 1 << 22, 1 << 12
LEAST_PRODUCTS, PRODUCTS_PER_BYTE = 1 << 32, 1 << 22


# An adapter object: per module its two sides, or None where it is kept bit for bit (spec ADP-01 to
# ADP-11)
def parse_adapter(content, get, size_of=lambda digest: 0):
    header, (planes, symbols, table) = unpack(
        content, "adapter", "ADP-01", ("planes", "symbols", "table")
    )
    layout = parse_layout(get(header["layout"], MAX_JSON))
    cursor = Cursor(table, "TAB-09")
    lanes = cursor.column(len(layout["modules"]))
    need(set(lanes) <= {0, 1, 3, 5, 7}, "TAB-03", "an unknown lane")
    coded = [(lane, module) for lane, module in zip(lanes, layout["modules"], strict=True) if lane]
    sides = [
        SimpleNamespace(previous=bool(lane & bit), rank=rank, width=width)
        for lane, (_, rank, a, b) in coded
        for bit, width in ((2, a), (4, b))
    ]
    terms = cursor.column(len(sides))
    need(max(terms, default=0) <= MAX_TERMS, "TAB-04", "too many terms")
    heads = zip(*(cursor.column(sum(terms), width) for width in (1, 1, 2)), strict=True)
    for side, number in zip(sides, terms, strict=True):
        side.terms = [
            (source, (exponent + 128) % 256 - 128, k)
            for _ in range(number)
            for source, exponent, k in [next(heads)]
        ]
        need(all(k > 0 for _, _, k in side.terms), "TAB-04", "a term without rows")
    size = len(content) + sum(size_of(source) for source in header["sources"])
    work = [(side.rank * k, side.width) for side in sides for _, _, k in side.terms]
    need(
        sum(count for count, _ in work) <= LEAST_COEFFICIENTS + COEFFICIENTS_PER_BYTE * size
        and sum(count * width for count, width in work)
        <= LEAST_PRODUCTS + PRODUCTS_PER_BYTE * size,
        "DEC-13",
        "more coefficients or products than a reader must spend",
        LargeError,
    )
    numbers = np.array(cursor.column(sum(side.rank for side in sides), 2), np.uint32)
    need(
        not any(number >= 0x7F80 for number in [*numbers, *cursor.column(len(coded), 2)]),
        "TAB-05",
        "a scale or error that is negative or not finite",
    )
    external, kept = references(layout, lanes, header, sides)
    shapes = [(side.rank, side.width) for side in sides] + [
        (side.rank, k) for side in sides for _, _, k in side.terms
    ]
    whole = []

    def columns(cursor):
        whole.extend(floats.parts(cursor, kept, "heads" in header))
        return [size for part in whole for size in floats.streams(part)]

    rows, left = cursor.rows(shapes, symbols, columns)
    cursor, tensors = Cursor(planes, "FRM-08"), {}
    for part in whole:
        tensors |= floats.read(part, cursor, left)
    cursor.all(tensors)
    scales = iter((numbers << 16).view(np.float32))
    for side in sides:
        side.own, side.scales = next(rows), np.array([next(scales) for _ in range(side.rank)])
    for side in sides:
        side.coefficients = [next(rows) for _ in side.terms]
    pairs = iter(zip(sides[::2], sides[1::2], strict=True))
    modules = {
        module[0]: next(pairs) if lane else None
        for lane, module in zip(lanes, layout["modules"], strict=True)
    }
    return SimpleNamespace(
        layout=layout, header=header, modules=modules, kept=tensors, external=external
    )


# Tensors kept outside, {position: object}, and inside, (position, dtype, elements) (ADP-05 to
# ADP-10)
def references(layout, lanes, header, sides):
    order, known = (
        [[source for source, _, _ in side.terms] for side in sides],
        len(header["sources"]),
    )
    need(
        all(used == sorted(set(used)) and max(used, default=-1) < known for used in order),
        "ADP-07",
        "terms out of order, or of no source",
    )
    need(
        len(set(header["sources"])) == known == len({source for used in order for source in used}),
        "ADP-05",
        "a source twice, or not used",
    )
    need(
        ("previous" in header) == any(side.previous for side in sides),
        "ADP-06",
        "a previous version not named, or not used",
    )
    whole, position = set(range(len(layout["tensors"]))), 0
    for factor in layout["factors"]:
        experts = lanes[position : position + factor["experts"]]
        position += factor["experts"]
        need(all(experts) or not any(experts), "ADP-08", "some experts coded, some not")
        whole -= {factor["a"], factor["b"]} if experts[0] else set()
    external = {item["tensor"]: item["object"] for item in header["external"]}
    need(
        [item["tensor"] for item in header["external"]] == sorted(external),
        "ADP-10",
        "external tensors out of order",
    )
    need(whole >= set(external), "ADP-10", "an external tensor that is coded or not there")
    inside = [(index, layout["tensors"][index]) for index in sorted(whole - set(external))]
    return external, [(index, tensor["dtype"], prod(tensor["shape"])) for index, tensor in inside]


# A basis object: per module its two sides, of which it has the own rows (spec BAS-01 to BAS-06)
def parse_basis(content):
    header, (symbols, table) = unpack(content, "basis", "BAS-01", ("symbols", "table"))
    names = [module["module"] for module in header["modules"]]
    need(names == sorted(set(names)), "BAS-02", "modules out of order, or twice")
    cursor = Cursor(table, "TAB-09")
    ks = cursor.column(2 * len(names), 2)
    need(
        all(a or b for a, b in zip(ks[::2], ks[1::2], strict=True)),
        "BAS-03",
        "a module without rows",
    )
    shapes = list(
        zip(
            ks,
            [module[side] for module in header["modules"] for side in ("in", "out")],
            strict=True,
        )
    )
    need(sum(prod(shape) for shape in shapes) <= MAX_NUMBERS, "BAS-06", "too many numbers")
    blocks = [SimpleNamespace(own=rows) for rows in cursor.rows(shapes, symbols)[0]]
    return dict(zip(names, zip(blocks[::2], blocks[1::2], strict=True), strict=True))


# The bytes of an external tensor; whether its floats may be split says the adapter object (spec
# TEN-01 to TEN-05, ADP-15)
def parse_tensor(content, spec, split=True):
    header, (planes, table) = unpack(content, "tensor", "TEN-01", ("planes", "table"))
    count, dtype = prod(spec["shape"]), spec["dtype"]
    width, heads = WIDTHS[dtype], header.get("heads")
    need(
        (header["size"], header["width"]) == (count * width, width),
        "TEN-02",
        f"expected {count} times {dtype}",
    )
    part = floats.single(0, dtype, count)
    if heads:
        need(split, "ADP-15", "floats that are split, and the adapter object does not say so")
        need(heads["dtype"] == dtype, "TEN-05", f"floats of {heads['dtype']}")
        need(heads["escapes"] <= count, "TEN-05", "more escapes than numbers")
        part = floats.group(dtype, heads["escapes"])
        floats.add(part, 0, count, heads["base"], "TEN-05")
    lengths = [-(-size // PIECE) for size in floats.streams(part)]
    need(len(table) == 3 * sum(lengths), "TEN-03", f"a table of {len(table)} bytes")
    cursor = Cursor(planes, "TEN-04")
    stored = (
        int.from_bytes(table[start : start + 3], "little") for start in range(0, len(table), 3)
    )
    return cursor.all(floats.read(part, cursor, stored)[0])
