"""Vectors that would be large, as recipes: what to write, and how often.

They are of just the size of a limit, and just beyond it. A recipe is a list of parts: a text in
UTF-8, or an object: a `text`, or bytes as `hex`, and how many `times` they stand there. In a text
that is repeated `<n>` is the number of the repetition, from 0, as five digits.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from spec.good import objects
from spec.tiny import Tiny, linear, object_path, pair
from spec.writing import canonical, sha256

Part = str | dict[str, Any]
Recipe = list[Part]
MIB: Final = 1 << 20


def within() -> dict[str, Recipe]:
    """Return what is of just the largest size: name -> recipe."""
    return {
        "1-mib.format.json": _format(MIB),
        "16-mib.note.json": _note(16 * MIB),
        "65536-tensors.layout.json": _layout(65_536),
        "65536-versions.record.json": _expire(65_536),
        "header-of-16-mib.basis.safetensors": _basis(16 * MIB),
    }


def beyond() -> dict[str, Recipe]:
    """Return what is larger by as little as there is: name, by the clause -> recipe."""
    return {
        "JSN-06-1-mib-and-1.format.json": _format(MIB + 1),
        "JSN-06-16-mib-and-1.note.json": _note(16 * MIB + 1),
        "LAY-01-65537-tensors.layout.json": _layout(65_537),
        "REC-01-expire-65537-versions.record.json": _expire(65_537),
        "OBJ-04-header-of-16-mib-and-8.basis.safetensors": _basis(16 * MIB + 8),
    }


def stores() -> dict[str, dict[str, Recipe]]:
    """Return stores of which a file is too large: name, by the clause -> path -> recipe."""
    return {
        "STO-08-config-of-1-mib-and-1.store": _store_with_config(MIB + 1),
        "STO-08-object-of-4-gib-and-1.store": _store_with_object((4 << 30) + 1),
    }


def write(recipe: Recipe, path: Path) -> None:
    """Write a file; long runs of zeros are holes, which take no room."""
    with path.open("wb") as file:
        for part in recipe:
            if isinstance(part, dict) and not bytes.fromhex(part.get("hex", "01")).strip(b"\0"):
                file.truncate(file.seek(part["times"] * len(part["hex"]) // 2, 1))
            else:
                file.writelines(_pieces(part))


def content(recipe: Recipe) -> bytes:
    """Return the bytes of a recipe."""
    return b"".join(piece for part in recipe for piece in _pieces(part))


def _pieces(part: Part) -> Iterator[bytes]:
    if isinstance(part, str):
        yield part.encode()
    elif "hex" in part:
        yield bytes.fromhex(part["hex"]) * part["times"]
    elif "<n>" in part["text"]:
        for number in range(part["times"]):
            yield part["text"].replace("<n>", f"{number:05}").encode()
    else:
        yield part["text"].encode() * part["times"]


def _format(size: int) -> Recipe:
    """Return a FORMAT of many features that whoever removes objects must know."""
    before, name, after = objects()["current.format.json"].decode().partition('{"gc":[')
    return _texts(before + name, after, size)


def _note(size: int) -> Recipe:
    before = '{"format":1,"kind":"note","tasks":[{"remarks":['
    return _texts(before, '],"task":"cola"}]}', size)


def _texts(before: str, after: str, size: int) -> Recipe:
    """Return a text of a size, by texts in an array between what is before and after."""
    item = '"' + "x" * 1000 + '",'
    times, rest = divmod(size - len(before) - len(after) - 2, len(item))
    return [before, {"text": item, "times": times}, f'"{"y" * rest}"{after}']


def _layout(tensors: int) -> Recipe:
    item = '{"dtype":"U8","key":"t<n>","shape":[]}'
    before = '{"factors":[],"format":1,"kind":"layout","metadata":[],"tensors":['
    last = item.replace("<n>", f"{tensors - 1:05}")
    return [before, {"text": f"{item},", "times": tensors - 1}, f"{last}]}}"]


def _expire(versions: int) -> Recipe:
    """Return a record that removes so many versions, each of another task."""
    before, _, after = objects()["expire.record.json"].decode().partition('"versions":[')
    item = '{"task":"t<n>","version":1}'
    last = item.replace("<n>", f"{versions - 1:05}")
    return [
        f'{before}"versions":[',
        {"text": f"{item},", "times": versions - 1},
        last + after[after.index("]") :],
    ]


def _basis(size: int) -> Recipe:
    """Return a basis object with a header of a size: one row of zeros for every module."""
    item = r"{\"in\":1,\"module\":\"b<n>" + "x" * 500 + r"\",\"out\":1},"
    before = r'{"__metadata__":{"share_registry":"{\"format\":1,\"kind\":\"basis\",\"modules\":['
    after = ']}"},"symbols":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"table":'
    table = '{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'
    digits = 2 * (6 - len("%d"))
    # of a module five digits for <n>, of the last no comma; what is left over makes names longer
    modules, rest = divmod(
        size - len(before + after + table) - digits + 1, len(item) + 5 - len("<n>")
    )
    last = item.replace("<n>", f"{modules - rest - 1:05}").removesuffix(",")
    bytes_of_table = 2 + 5 * modules
    return [
        {"hex": size.to_bytes(8, "little").hex(), "times": 1},
        before,
        {"text": item.replace("b<n>", "a<n>x"), "times": rest},
        {"text": item, "times": modules - rest - 1},
        last + after + table % (bytes_of_table, bytes_of_table),
        # columns as they are, no group; k of both sides, highest bytes first; groups of the rows
        {"hex": "00", "times": 2 + 2 * modules},
        {"hex": "0100", "times": modules},
        {"hex": "00", "times": modules},
    ]


def _store_with_config(size: int) -> dict[str, Recipe]:
    """Return a store with a configuration of a size."""
    config: Recipe = ['{"a":"', {"text": "x", "times": size - 8}, '"}']
    tiny = Tiny()
    digest = sha256(content(config))
    told = {"task": "cola", "config": digest}
    note = tiny.put(canonical({"format": 1, "kind": "note", "tasks": [told]}))
    tiny.record("absorb", note=note, tasks=[tiny.adapter("cola", 1, linear(), [pair("cola")])])
    return _recipes(tiny) | {object_path(digest): config}


def _store_with_object(size: int) -> dict[str, Recipe]:
    """Return a store with zeros in the place of an adapter object."""
    tiny = Tiny()
    entry = tiny.adapter("cola", 1, linear(), [pair("cola")])
    tiny.absorb(entry)
    return _recipes(tiny) | {object_path(entry["adapter"]): [{"hex": "00", "times": size}]}


def _recipes(tiny: Tiny) -> dict[str, Recipe]:
    return {path: [{"hex": file.hex(), "times": 1}] for path, file in tiny.files.items()}
