"""Chapter 02, and the tables of members of all chapters: JSON of one form, by its schema."""

import json
import re
from datetime import datetime
from pathlib import Path

from spec.reader.names import NAME, is_name
from spec.reader.refusals import DamagedError, NewerError, need

MAX_JSON = MAX_HEADER = MAX_FRAME = 16 << 20
MAX_FORMAT = 1 << 20
# of records (spec REC-14, REC-15, COM-13, COM-14)
FEATURES = [
    "bounded-dependents",
    "commit-checks",
    "exports",
    "float-heads",
    "module-shapes",
    "removals",
]
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
SCHEMAS = {
    path.stem: json.loads(path.read_text())
    for path in (Path(__file__).parent.parent / "schemas").glob("*.json")
}


# The one text of a value (spec JSN-01)
def canonical(value):
    check_profile(value, 0)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


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
        kind != "record" or knows(value.get("requires", [])),
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


def knows(features):
    return type(features) is list and all(name in FEATURES for name in features)


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
