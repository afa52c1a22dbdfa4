"""Reference reader of share_registry stores, format version 1.

Standard library, numpy, zstandard and the schemas beside it. For clarity, not for speed.

Checks a space's log, decodes any version and writes its configuration and its tensors byte for
byte; a refusal names the broken clause of the specification.
    python spec/reference_reader.py STORE --list
    python spec/reference_reader.py STORE SPACE/TASK@vN OUT
"""

import json
import re
import sys
from datetime import UTC, datetime, timedelta
from functools import reduce
from hashlib import sha256
from itertools import accumulate, groupby
from math import prod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import zstandard

MAX_JSON = MAX_HEADER = MAX_FRAME = 16 << 20
MAX_FORMAT = 1 << 20
MAX_OBJECT = 4 << 30
MAX_CONFIG = 1 << 20
MAX_NAME = 255
CONFIG, TENSORS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
MAX_ADAPTER = 16 << 30
MAX_WINDOW = 8 << 20
PIECE = 4 << 20
MAX_MODULES = 65_536
MAX_NUMBERS = 1 << 32
MAX_CHAIN = 8
MAX_BITS = 23
MAX_PRODUCT_BITS = 45
MAX_RATIO = 320_000
MAX_TERMS = 64
MAX_SHIFT = 16
LEAST_COEFFICIENTS, COEFFICIENTS_PER_BYTE = 1 << 22, 1 << 12
LEAST_PRODUCTS, PRODUCTS_PER_BYTE = 1 << 32, 1 << 22
PACKINGS = ((256, 1), (3, 5), (3, 4), (5, 3), (7, 2), (9, 2), (11, 2), (15, 2))
WIDTHS = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
NAME = "^[a-z0-9][a-z0-9._-]{0,63}$"
FORBIDDEN = r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?|.*\.\..*|.*\."
RESERVED = r"[vc][0-9]+|latest|head|[0-9a-f]{8,}|[0-9]{4}-[0-9]{2}-[0-9]{2}.*"
REFERENCE = r"(?:([^/@~]+)/)?([^/@~]*)(?:@([^@~]+))?(?:~(0|[1-9][0-9]{0,8}))?"
TIME = r"[0-9-]{10}([T ]([01][0-9]|2[0-3])(:[0-9]{2}){1,2}(\.[0-9]{1,6})?(Z|[+-][0-9:]{5})?)?"
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
SCHEMAS = {
    path.stem: json.loads(path.read_text())
    for path in (Path(__file__).parent / "schemas").glob("*.json")
}


class DamagedError(Exception):
    """Bytes that break a clause, which the message begins with."""


class NewerError(Exception):
    """Bytes of a later format, which break nothing."""


class RemovedError(Exception):
    """What a note said that is not in the store."""


class LargeError(Exception):
    """Bytes that break nothing and ask for more than a reader must spend."""


def need(condition, clause, found, error=DamagedError):
    if not condition:
        raise error(f"{clause}: {found if type(found) is str else repr(found):.200}")


# The one text of a value (spec JSN-01)
def canonical(value):
    check_profile(value, 0)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


# The values that there are (spec JSN-02 to JSN-04, JSN-06)
def check_profile(value, depth):
    need(depth <= 16, "JSN-06", "nested deeper than 16")
    if type(value) is dict:
        need(all(name.isascii() for name in value), "JSN-04", "a member name that is not ASCII")
        for item in value.values():
            check_profile(item, depth + 1)
    elif type(value) is list:
        for item in value:
            check_profile(item, depth + 1)
    elif type(value) is str:
        need(not re.search("[\ud800-\udfff]", value), "JSN-06", "no Unicode")
        need(len(value.encode()) <= 65_536, "JSN-06", "a string that is too long")
    else:
        need(value is not None, "JSN-02", "null")
        small = type(value) is int and abs(value) < 1 << 53
        need(small or type(value) is bool, "JSN-03", "a number that is no integer below 2**53")


# A canonical object of a kind (spec JSN-05, JSN-06, EVO-02, EVO-03)
def parse(content, kind, clause, limit=MAX_JSON):
    need(len(content) <= limit, "JSN-06", f"{len(content)} bytes, more than {limit}")
    try:
        value = json.loads(
            content.decode(), parse_int=lambda text: int(text) if len(text) < 18 else 1 << 53
        )
    except (ValueError, RecursionError) as error:
        raise DamagedError(
            f"{'JSN-06' if isinstance(error, RecursionError) else 'JSN-01'}: {error}"
        ) from error
    need(type(value) is dict, "JSN-02", "not an object")
    need(canonical(value).encode() == content, "JSN-05", "not in canonical form")
    need(
        kind != "record" or value.get("requires", []) == [],
        "REC-14",
        "unknown features are required",
        NewerError,
    )
    kind = f"record-{value.get('kind')}" if kind == "record" else kind
    # what is no number at all is malformed, and not of a later format
    number = value.get("version" if kind == "format" else "format")
    later = type(number) is int and number != 1
    later = later or (kind == "format" and value.get("read", []) != [])
    need(not later, "EVO-02", "another format", NewerError)
    need(kind in SCHEMAS, clause, "of no known kind")
    check(value, SCHEMAS[kind], SCHEMAS[kind], clause)
    need("time" not in value or is_time(value["time"]), "REC-05", "a time of no calendar")
    return value


# A time between the years 1900 and 9998 (spec REC-05)
def is_time(text):
    try:
        moment = datetime.fromisoformat(text)
        return (
            1900 <= moment.year <= 9998
            and moment.isoformat(timespec="microseconds") == text[:-1] + "+00:00"
        )
    except ValueError:
        return False


# Check a value against a schema; unknown members are refused
def check(value, schema, root, clause):
    schema = root["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    need(type(value) is TYPES[schema["type"]], clause, value)
    need(value in schema.get("enum", [schema.get("const", value)]), clause, value)
    size = value if isinstance(value, int) else len(value)
    for unit in ("imum", "Length", "Items"):
        fits = schema.get(f"min{unit}", size) <= size <= schema.get(f"max{unit}", size)
        need(fits, clause, value)
    if type(value) is str and "pattern" in schema:
        matches = re.fullmatch(schema["pattern"], value, re.DOTALL | re.ASCII)
        need(matches, clause, value)
        need(schema["pattern"] != NAME or is_name(value), "NAM-01", value)
    elif type(value) is list:
        for item in value:
            check(item, schema["items"], root, clause)
    elif type(value) is dict:
        need(set(schema.get("required", ())) <= value.keys(), clause, value)
        need(value.keys() <= schema["properties"].keys(), clause, value)
        for name, item in value.items():
            check(item, schema["properties"][name], root, clause)


def is_name(text):
    return bool(re.fullmatch(NAME[1:-1], text) and not re.fullmatch(FORBIDDEN, text))


# The last microsecond of a date, a minute or a second, as in a record; nothing if it is no time
# (spec REF-07)
def end_of(text):
    if not re.fullmatch(TIME, text):
        return ""
    try:
        begin = datetime.fromisoformat(text)
    except ValueError as error:
        raise DamagedError(f"REF-01: {error}") from error
    need(1900 <= begin.year <= 9998, "REF-01", f"{text}: a year that no record has")
    parts = 1 if len(text) == 10 else text[10:].count(":") - (text[-6] in "+-") + 1
    length = {1: timedelta(days=1), 2: timedelta(minutes=1), 3: timedelta(seconds=1)}[parts]
    length = timedelta(microseconds=1) if "." in text else length
    end = (begin if begin.tzinfo else begin.replace(tzinfo=UTC)) + length
    return (end - timedelta(microseconds=1)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# A layout, with its modules (name, rank, in, out) as member `modules` (spec LAY-01 to LAY-09)
def parse_layout(content):
    layout = parse(content, "layout", "LAY-01")
    tensors, layout["modules"] = layout["tensors"], []
    keys, entries = (
        [item[name] for item in layout[part]]
        for part, name in (("tensors", "key"), ("metadata", "name"))
    )
    need(
        len({*keys, "__metadata__"}) == len(keys) + 1 and len(set(entries)) == len(entries),
        "LAY-05",
        "a tensor or metadata entry twice",
    )
    used = [index for factor in layout["factors"] for index in (factor["a"], factor["b"])]
    need(
        len(set(used)) == len(used) and all(index < len(tensors) for index in used),
        "LAY-06",
        "a tensor used twice, or one that is not there",
    )
    need(
        [f["module"] for f in layout["factors"]]
        == sorted({f["module"] for f in layout["factors"]}),
        "LAY-07",
        "factors not sorted by distinct modules",
    )
    for factor in layout["factors"]:
        dtypes = {tensors[factor[side]]["dtype"] for side in "ab"}
        a, b, experts = (
            tensors[factor["a"]]["shape"],
            tensors[factor["b"]]["shape"],
            factor["experts"],
        )
        fits = (
            len(a) >= 2 <= len(b)
            and 0 not in a + b
            and a[0] == b[1]
            and a[0] % experts == 0
            and (experts == 1 or factor["form"] == "experts")
        )
        fits = fits and (factor["form"] == "conv" or len(a) == len(b) == 2) and set(b[2:]) <= {1}
        need(
            fits and dtypes <= set(FLOATS),
            "LAY-08",
            f"the tensors of {factor['module']!r:.80} do not fit",
        )
        names = (
            [f"{factor['module']}#{e}" for e in range(experts)]
            if factor["form"] == "experts"
            else [factor["module"]]
        )
        layout["modules"] += [(name, a[0] // experts, prod(a[1:]), b[0]) for name in names]
        need(len(layout["modules"]) <= MAX_MODULES, "LAY-09", "too many modules")
    need(
        len({module[0] for module in layout["modules"]}) == len(layout["modules"]),
        "LAY-07",
        "a module called like an expert of another",
    )
    need(
        sum(prod(tensor["shape"]) * WIDTHS[tensor["dtype"]] for tensor in tensors) <= MAX_ADAPTER,
        "LAY-09",
        "too many bytes",
    )
    return layout


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

    # The bytes of a tensor kept bit for bit (spec FRM-07)
    def planes(self, dtype, count, lengths):
        return np.stack(
            [np.frombuffer(self.stream(count, lengths), np.uint8) for _ in range(WIDTHS[dtype])],
            axis=1,
        ).tobytes()

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

    # Arrays of these shapes, and the lengths left (spec TAB-06 to TAB-09, SYM-01, SYM-09)
    def rows(self, shapes, symbols, streams=()):
        group_of_row = np.array(self.column(sum(number for number, _ in shapes)), int)
        widths = [width for number, width in shapes for _ in range(number)]
        need((group_of_row <= self.groups).all(), "TAB-06", "a row of a group that is not there")
        groups = list(zip(self.column(self.groups), self.column(self.groups), strict=True))
        need(
            all(packing < len(PACKINGS) and shift <= MAX_SHIFT for packing, shift in groups),
            "TAB-07",
            "an unknown packing or shift",
        )
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
    rows, left = cursor.rows(
        shapes, symbols, [size for _, dtype, size in kept for _ in range(WIDTHS[dtype])]
    )
    cursor = Cursor(planes, "FRM-08")
    tensors = cursor.all({index: cursor.planes(dtype, size, left) for index, dtype, size in kept})
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


class Store:
    def __init__(self, root):
        self.root = Path(root)
        self.format = self.read("FORMAT", MAX_FORMAT)
        parse(self.format, "format", "STO-03", MAX_FORMAT)

    def read(self, path, limit):
        path = self.root / path
        need(path.exists() or path.is_symlink(), "OBJ-02", f"there is no {path}")
        need(
            path.is_file() and not path.is_symlink() and path.stat().st_size <= limit,
            "STO-08",
            f"{path} is no file of at most {limit} bytes",
        )
        return path.read_bytes()

    def size(self, digest):
        path = self.root / f"objects/{digest[:2]}/{digest[2:]}"
        return path.stat().st_size if path.is_file() else 0

    def get(self, digest, limit=MAX_OBJECT):
        content = self.read(f"objects/{digest[:2]}/{digest[2:]}", limit)
        need(sha256(content).hexdigest() == digest, "OBJ-01", f"object {digest} has other bytes")
        return content

    # The paths of all records of a space, or of all spaces
    def records(self, space="*"):
        paths = self.root.glob(f"spaces/{space}/log/*.json")
        return sorted(path for path in paths if re.fullmatch(r"[0-9]{20}\.json", path.name))

    # The names of the spaces (spec REC-07)
    def spaces(self):
        return sorted({path.parts[-3] for path in self.records()})

    # The state of a space: its commits, its tags, and every task under every name it ever had
    # (spec REC-02 to REC-20, NAM-02, NAM-03)
    def log(self, space):
        paths = self.records(space)
        numbers = [int(path.stem) for path in paths]
        need(numbers == list(range(1, len(paths) + 1)), "REC-03", "a record is missing")
        state = SimpleNamespace(commits=[], aliases=set(), tags={}, tasks={}, newer=None)
        parent, time, keys = sha256(self.format).hexdigest(), "", set()
        for number, path in enumerate(paths, 1):
            content = self.read(path.relative_to(self.root), MAX_JSON)
            try:
                record = parse(content, "record", "REC-01")
            except NewerError as error:
                # what is before it stays as it was; what is newest is not known (spec EVO-05)
                state.newer = error
                break
            place, kind = (record["space"], record["number"]), record["kind"]
            need(place == (space, number), "REC-02", f"c{number} is of another place")
            need(record["parent"] == parent, "REC-03", f"c{number} does not follow c{number - 1}")
            need(record["time"] >= time, "REC-05", f"c{number} is earlier than c{number - 1}")
            need(record["key"] not in keys, "REC-06", f"c{number} repeats a key")
            need((kind == "create") == (number == 1), "REC-07", f"c{number} is of kind {kind}")
            parent, time, keys = sha256(content).hexdigest(), record["time"], {*keys, record["key"]}
            state.commits.append((parent, time))
            follow(state, record)
        return state

    # What a reference means (spec REF-01 to REF-03, REF-08, EVO-05)
    def resolve(self, text):
        match = re.fullmatch(REFERENCE, text)
        need(len(text) <= 256 and match and (match[2] or match[3]), "REF-01", text)
        space, name, selector, back = *match.group(1, 2), match[3] or "latest", int(match[4] or 0)
        names = all(is_name(part) for part in (space, name) if part)
        need(names and is_selector(selector), "REF-01", text)
        spaces = self.spaces()
        space = space or (spaces[0] if len(spaces) == 1 else "")
        need(space in spaces, "REF-02", f"{text!r} is of no space")
        need(name or not re.fullmatch("v[0-9]+", selector), "REF-08", f"{text!r} is of no task")
        state = self.log(space)
        try:
            meaning = meaning_of(state, name, selector, back)
        except DamagedError as error:
            # what is not there may have come since
            raise NewerError(f"EVO-05: {state.newer}") if state.newer else error from error
        return f"{space}/{meaning}"

    # An adapter object, float32 factors of each module, its tensors (spec DEC-02, DEC-05,
    # DEC-08 to DEC-11)
    def decode(self, digest, depth=0):
        need(depth <= MAX_CHAIN, "DEC-09", f"a chain of more than {MAX_CHAIN} previous versions")
        adapter = parse_adapter(self.get(digest), self.get, self.size)
        before = (
            self.decode(adapter.header["previous"], depth + 1)[1]
            if "previous" in adapter.header
            else {}
        )
        blocks = [self.blocks(source) for source in adapter.header["sources"]]
        layout, rows, names = adapter.layout, {}, iter(adapter.modules)
        tensors = adapter.kept | {
            index: self.tensor(place, layout["tensors"][index])
            for index, place in adapter.external.items()
        }
        for factor in layout["factors"]:
            (a, b), experts = (layout["tensors"][factor[side]] for side in "ab"), factor["experts"]
            mine = [next(names) for _ in range(experts)]
            if factor["a"] in tensors:
                flat = [
                    widen(tensors[factor[side]], spec["dtype"]).reshape(spec["shape"][0], -1)
                    for side, spec in (("a", a), ("b", b))
                ]
                rows |= {
                    name: (
                        flat[0][len(flat[0]) // experts * e :][: len(flat[0]) // experts],
                        flat[1][:, e::experts].T,
                    )
                    for e, name in enumerate(mine)
                }
            else:
                rows |= {
                    n: [
                        decode(side, i, [block.get(n) for block in blocks], before.get(n))
                        for i, side in enumerate(adapter.modules[n])
                    ]
                    for n in mine
                }
                tensors[factor["a"]] = rounded(
                    np.concatenate([rows[name][0] for name in mine]), a["dtype"]
                )
                tensors[factor["b"]] = rounded(
                    np.stack([rows[name][1] for name in mine], axis=2).transpose(1, 0, 2),
                    b["dtype"],
                )
        return adapter, rows, tensors

    # The rows that an adapter or basis object offers, by module and side (spec DEC-02)
    def blocks(self, digest):
        content = self.get(digest)
        basis = rb"\"kind\":\"basis\"" in content[: 8 + int.from_bytes(content[:8], "little")]
        return (
            parse_basis(content) if basis else parse_adapter(content, self.get, self.size).modules
        )

    # The bytes of an external tensor (spec TEN-01 to TEN-04)
    def tensor(self, digest, spec):
        header, (planes, table) = unpack(self.get(digest), "tensor", "TEN-01", ("planes", "table"))
        count, width = prod(spec["shape"]), WIDTHS[spec["dtype"]]
        need(
            (header["size"], header["width"]) == (count * width, width),
            "TEN-02",
            f"expected {count} times {spec['dtype']}",
        )
        need(
            len(table) == 3 * width * -(-count // PIECE), "TEN-03", f"a table of {len(table)} bytes"
        )
        cursor = Cursor(planes, "TEN-04")
        lengths = (
            int.from_bytes(table[start : start + 3], "little") for start in range(0, len(table), 3)
        )
        return cursor.all(cursor.planes(spec["dtype"], count, lengths))

    # The files of a version (spec EXP-01 to EXP-04, DEC-12)
    def export(self, version):
        need(
            not version["note"] or self.size(version["note"]),
            "NOT-06",
            "the note, and with it the configuration, is not in the store",
            RemovedError,
        )
        note = (
            parse(self.get(version["note"], MAX_JSON), "note", "NOT-01") if version["note"] else {}
        )
        said = [said for said in note.get("tasks", ()) if said["task"] == version["said"]][:1]
        need(said and "config" in said[0], "NOT-04", "the note names no configuration")
        files = {
            CONFIG: self.get(said[0]["config"], MAX_CONFIG),
            CARD: card(version, self.base(version["space"])),
        }
        need(is_object(files[CONFIG]), "EXP-02", "the configuration is no JSON object")
        adapter, _, tensors = self.decode(version["adapter"])
        named, layout = adapter.header["layout"], adapter.layout
        need(named == version["layout"], "REC-08", "another layout than the adapter object's")
        metadata = [(entry["name"], entry["value"]) for entry in layout["metadata"]]
        made = safetensors(
            metadata,
            [
                (spec["key"], spec["dtype"], spec["shape"], tensors[index])
                for index, spec in enumerate(layout["tensors"])
            ],
        )
        need(
            sha256(made).hexdigest() == version["tensors"],
            "DEC-12",
            "other tensors than were committed",
        )
        files[TENSORS] = made
        return files | self.attached(said[0].get("attachments", ()))

    # Attachments under the names that an export gives them (spec EXP-04, NOT-04)
    def attached(self, entries):
        contents, files = {}, {}
        for entry in entries:
            contents[entry["name"]] = self.get(entry["object"])
            need(len(contents[entry["name"]]) == entry["size"], "NOT-04", "another size")
        cards = [name for name in sorted(contents) if name.casefold() == CARD.casefold()]
        for name in sorted(contents.keys() - {*cards}):
            present = {other.casefold() for other in (CONFIG, TENSORS, *files)}
            if len(name.encode()) <= MAX_NAME and name.casefold() not in present:
                files[name] = contents[name]
        for name in cards:
            numbers = ("", *(f".{number}" for number in range(2, len(files) + 3)))
            targets = (f"README.source{number}.md" for number in numbers)
            files[next(target for target in targets if target not in files)] = contents[name]
        return files

    # The label of the base model of a space
    def base(self, space):
        first = self.read(f"spaces/{space}/log/{1:020}.json", MAX_JSON)
        return parse(first, "record", "REC-01")["base_model"]["label"]


# The state after one more record (spec REC-08 to REC-20, NAM-02, NAM-03)
def follow(state, record):
    kind, told = record["kind"], record.get("tasks", [record] if "task" in record else [])
    need(
        [entry["task"] for entry in told] == sorted({entry["task"] for entry in told}),
        "REC-08",
        "tasks out of order",
    )
    parents = [of for entry in told for of in entry.get("derived_from", ())]
    for of in parents:
        parent_task = state.tasks.get(of["task"])
        need(
            parent_task and of["version"] <= len(parent_task.versions),
            "REC-08",
            "a parent that is not there",
        )
        need(parent_task.name == of["task"], "NAM-02", "a parent under another name")
    for entry in told:
        follow_task(state, record, entry)
    need(
        kind != "merge" or len(record["weights"]) == len(told[0].get("derived_from", ())),
        "REC-18",
        "not one weight for each parent",
    )
    need(
        kind != "tag"
        or (record["commit"] < len(state.commits) and record["tag"] not in state.tags),
        "REC-12",
        "a tag of a later commit, or one that is there",
    )
    state.tags |= {record["tag"]: record["commit"]} if kind == "tag" else {}
    said = {record[kind]} if kind in ("alias", "tag") else set()
    state.aliases |= {record["alias"]} if kind == "alias" else set()
    need(
        not any(re.fullmatch(RESERVED, name) for name in said)
        and not (said & state.tags.keys() and said & state.aliases),
        "NAM-03",
        "a name that reads as another selector",
    )


# What a record does to one of its tasks
def follow_task(state, record, entry):
    kind, adds = record["kind"], ("absorb", "refit", "merge")
    number, (digest, time) = len(state.commits), state.commits[-1]
    new = SimpleNamespace(name=entry["task"], versions=[], live=False, lives=[], aliases={})
    task = (
        state.tasks.setdefault(entry["task"], new)
        if kind in ("absorb", "merge")
        else state.tasks.get(entry["task"])
    )
    need(
        task and task.name == entry["task"],
        "NAM-02",
        f"{entry['task']} is not what a task is called then",
    )
    version, versions = entry.get("version", 1), task.versions
    if kind in (*adds, "restore"):
        clause = {"restore": "REC-10", "refit": "REC-16"}.get(kind, "REC-08")
        need(
            version == len(versions) + 1 and entry.get("of", 0) < version,
            clause,
            f"v{version} out of order",
        )
        need(
            kind == "restore" or float(entry["error"]) <= float(entry.get("budget", "inf")),
            "REC-09",
            "an error above the budget",
        )
        need(
            kind != "refit" or (task.live and "before" in entry and carries(entry, versions[-1])),
            "REC-16",
            "of another adapter",
        )
        need(kind == "refit" or "before" not in entry, "REC-17", "not re-expressed")
        told_of = (
            {**entry, "note": record.get("note"), "said": entry["task"]}
            if kind in adds
            else versions[entry["of"] - 1]
        )
        told_of |= (
            {name: versions[-1][name] for name in ("note", "said")} if "before" in entry else {}
        )
        ref = f"{record['space']}/{entry['task']}@v{version}"
        place = {"space": record["space"], "ref": ref, "number": number, "id": digest}
        versions.append({**told_of, **place, "time": time})
    need(
        version <= len(versions),
        "REC-12" if kind == "alias" else "REC-13",
        f"v{version} of {len(versions)}",
    )
    need(
        kind != "rename"
        or (entry["name"] != task.name and state.tasks.setdefault(entry["name"], task) is task),
        "REC-11",
        "a name of another task, or that it has",
    )
    need(kind != "drop" or task.live, "REC-11", "dropped already")
    if kind == "alias":
        moves = task.aliases.setdefault(entry["alias"], [])
        need(
            "version" in entry or (moves and moves[-1]),
            "REC-12",
            "an alias that is not there",
        )
        moves.append(entry.get("version"))
    task.name, task.live = (
        entry.get("name", task.name),
        kind in (*adds, "restore") or (task.live and kind != "drop"),
    )
    task.lives.append((number, task.live))


# Whether a text is a selector (spec REF-01)
def is_selector(text):
    return bool(
        text in ("latest", "head")
        or re.fullmatch("[vc][1-9][0-9]{0,14}|[0-9a-f]{8,64}", text)
        or end_of(text)
        or (is_name(text) and not re.fullmatch(RESERVED, text))
    )


# What is meant in a space by the parts of a reference (spec REF-03 to REF-09)
def meaning_of(state, name, selector, back):
    task = state.tasks.get(name)
    need(task or not name, "REF-03", f"there is no task {name}")
    if re.fullmatch("v[0-9]+", selector):
        version = int(selector[1:]) - back
        there = 1 <= version <= len(task.versions)
        need(there, "REF-05" if back else "REF-04", f"there is no v{version}")
        return f"{task.name}@v{version}"
    if name and selector in task.aliases:
        need(not state.newer, "EVO-05", "aliases may have moved", NewerError)
        *earlier, last = task.aliases[selector]
        moves = [last, *(version for version in reversed(earlier) if version)]
        targets = [version for version, _ in groupby(moves)]
        need(back < len(targets), "REF-05", f"{selector} had {len(targets)} targets")
        need(targets[back], "REF-06", f"{selector} was removed")
        return f"{task.name}@v{targets[back]}"
    number = commit_of(state, selector)
    if not name:
        need(number > back, "REF-05", f"there is no c{number - back}")
        return f"@c{number - back}"
    versions = sum(version["number"] <= number for version in task.versions)
    need(versions, "REF-07", f"{task.name} was not there at c{number}")
    live = [live for since, live in task.lives if since <= number][-1]
    need(live, "REF-09", f"{task.name} is dropped at c{number}")
    need(versions > back, "REF-05", f"there is no v{versions - back}")
    return f"{task.name}@v{versions - back}"


# The commit that a selector names (spec REF-07)
def commit_of(state, selector):
    commits, until = state.commits, end_of(selector)
    is_newest = selector in ("latest", "head") or until >= commits[-1][1]
    need(not (is_newest and state.newer), "EVO-05", "the newest is not known", NewerError)
    if re.fullmatch("c[0-9]+", selector):
        found = [int(selector[1:])]
    elif until:
        found = [sum(time <= until for _, time in commits)]
    elif re.fullmatch("[0-9a-f]{8,64}", selector):
        found = [n for n, (digest, _) in enumerate(commits, 1) if digest.startswith(selector)]
    else:
        found = [len(commits) if is_newest else state.tags.get(selector, 0)]
    need(len(found) == 1 and 1 <= found[0] <= len(commits), "REF-07", f"{selector}: no commit")
    return found[0]


def is_object(content):
    try:
        return type(json.loads(content.decode())) is dict
    except (ValueError, RecursionError):
        return False


# The model card (spec EXP-03)
def card(version, base):
    base = base.replace("\0", "\ufffd")
    budget = f" (budget {float(version['budget']):.3g})" if "budget" in version else ""
    error = f"{float(version['error']):.3g}{budget}"
    whose = f" for `{base}`" if base else ""
    lines = [
        "---",
        "library_name: peft",
        *([f"base_model: {json.dumps(base)}"] if base else []),
        *("tags:", "- lora", "- share_registry", "---"),
        *("<!-- written by share_registry -->", "", f"# {version['ref']}", ""),
        f"A LoRA adapter{whose}, exported by share_registry in the native profile.",
        *("", f"- version: `{version['ref']}`"),
        f"- commit: c{version['number']} `{version['id']}` of {version['time']}",
        f"- relative error of scaled dW against the committed adapter: {error}",
        "",
    ]
    return "\n".join(lines).encode()


# The digest of an export (spec EXP-05)
def digest_of(files):
    listed = [
        {"name": name, "sha256": sha256(content).hexdigest()}
        for name, content in sorted(files.items())
    ]
    return sha256(canonical(listed).encode()).hexdigest()


# Whether a version that is re-expressed is of the same adapter (spec REC-16)
def carries(entry, last):
    return all(entry[name] == last[name] for name in ("source", "layout", "raw_bytes")) and all(
        float(entry[name]) == float(last[of])
        for name, of in (("norm", "norm"), ("before", "error"))
    )


# A factor (spec DEC-01 to DEC-07)
def decode(side, which, blocks, before):
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


# Print every version of a store; what is of a later format is said at the end
def show(store):
    states = {space: store.log(space) for space in store.spaces()}
    for space, state in states.items():
        for name, task in sorted(state.tasks.items()):
            for number, version in enumerate(task.versions if task.name == name else (), 1):
                commit, error = f"c{version['number']} {version['id'][:8]}", version["error"]
                print(f"{space}/{name}@v{number} {commit} error {error}")
    for state in states.values():
        if state.newer:
            raise state.newer


# Write the files of a version
def write(store, ref, folder):
    space, task, number = re.fullmatch(r"([^/@]+)/([^/@]+)@v([0-9]+)", ref).groups()
    state, number = store.log(space), int(number)
    versions = state.tasks[task].versions
    if state.newer and number > len(versions):
        raise state.newer
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in store.export(versions[number - 1]).items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    if sys.argv[2] == "--list":
        show(Store(sys.argv[1]))
    else:
        write(Store(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
