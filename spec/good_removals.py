"""A good vector of versions that are removed, and of what is read in place of objects (REC-22, REC-23)."""

import json
from collections.abc import Mapping
from typing import Any

from spec.tiny import Tiny, linear, number, object_path, pair, spread
from spec.writing import Side, canonical

FEATURE = ["removals"]


def removals() -> dict[str, bytes]:
    """Return a store of versions that were expired, and of two tasks that were purged.

    `cola` and `shared` are decoded from objects of removed versions; `shared` and `next` were built
    upon `base`, which goes with its basis, and `shared` upon `film` as well, which goes later.
    """
    tiny = Tiny()
    base, cola = (_plain(tiny, task, 1) for task in ("base", "cola"))
    joint = _notes_of(tiny, base, cola)
    film, mnli = (_plain(tiny, task, 1) for task in ("film", "mnli"))
    middle = _plain(tiny, "base", 2)
    three = _notes_of(tiny, middle, film, mnli)
    basis = tiny.basis({"q": (spread("A", 2, 5, 9), spread("B", 3, 3, 9))})
    third = tiny.adapter("base", 3, linear(), [_over("base", 0, 3)], sources=[basis])
    alone = _notes_of(tiny, third, basis=basis)
    second = _next(tiny, "cola", 2, cola)
    shared = tiny.adapter(
        "shared", 1, linear(), [_over("s", 0, 2, 1)], sources=[base["adapter"], film["adapter"]]
    )
    following = _next(tiny, "next", 1, third)
    tiny.absorb(second, following, shared)
    tiny.record("restore", task="shared", version=2, of=1)
    for alias, version in (("prod", 3), ("old", 2)):
        tiny.record("alias", task="base", alias=alias, version=version)
    tiny.record("alias", task="base", alias="old")
    remark = _note(tiny, {"task": "base", "labels": [{"name": "team", "value": "search"}]})
    tiny.record("annotate", task="base", version=2, note=remark)
    _expire(tiny, ("base", 1), ("cola", 1), ("shared", 1))
    first = _kept(tiny, shared)
    anchors = {shared["adapter"]: first, following["adapter"]: _kept(tiny, following)}
    # what is left of a note is named by no record of an absorb
    rest, left = _without(tiny, joint, "base"), _without(tiny, three, "base")
    _purge(tiny, "base", anchors, {joint: rest, three: left, alone: "", remark: ""}, [basis])
    # the note has the bytes of the first once more, and is read as it is
    assert _notes_of(tiny, _plain(tiny, "base", 4), _plain(tiny, "cola", 3)) == joint
    split = _kept(tiny, shared, groups=[{0: 1900, 1: 1900}])
    last = _without(tiny, left, "film")
    _purge(tiny, "film", {first: split}, {left: last}, [], requires=["float-heads", "removals"])
    tiny.record("drop", task="mnli")
    _expire(tiny, ("mnli", 1))
    gone = [entry["adapter"] for entry in (base, middle, third, film, mnli, shared, following)]
    for digest in (*gone, first, basis, three, alone, remark, left):
        del tiny.files[object_path(digest)]
    return tiny.files


def _plain(tiny: Tiny, task: str, version: int) -> dict[str, Any]:
    return tiny.adapter(task, version, linear(), [pair(f"{task}{version}")])


def _next(tiny: Tiny, task: str, version: int, before: Mapping[str, Any]) -> dict[str, Any]:
    modules = [pair(f"{task}{version}", peak=3, previous=True)]
    return tiny.adapter(task, version, linear(), modules, previous=before["adapter"])


def _over(seed: str, *parts: int) -> tuple[Side, Side]:
    """Return a module over rows of the first source, and where a third number is given the second.

    The other two are the exponent and the rows of the `b` side.
    """
    exponent, k, *more = parts
    a, b = pair(seed, peak=4)
    a.terms = [(0, exponent, spread(seed + "A", 2, 2, 9))]
    a.terms += [(source, exponent, spread(seed + "C", 2, 2, 9)) for source in more]
    b.terms = [(0, exponent, spread(seed + "B", 2, k, 9))]
    return a, b


def _notes_of(tiny: Tiny, *tasks: Mapping[str, Any], **members: Any) -> str:
    """Add an absorb record; return the digest of its note."""
    tiny.absorb(*tasks, **members)
    record = json.loads(tiny.files[f"spaces/{tiny.space}/log/{tiny.number:020}.json"])
    return str(record["note"])


def _note(tiny: Tiny, *told: dict[str, Any]) -> str:
    return tiny.put(canonical({"format": 1, "kind": "note", "tasks": list(told)}))


def _without(tiny: Tiny, note: str, task: str) -> str:
    """Add a note without what it says of a task."""
    said = json.loads(tiny.files[object_path(note)])
    left = [entry for entry in said["tasks"] if entry["task"] != task]
    return tiny.put(canonical(said | {"tasks": left}))


def _kept(tiny: Tiny, entry: Mapping[str, Any], groups: list[dict[int, int]] | None = None) -> str:
    """Add an adapter object that keeps bit for bit what another one decodes to."""
    a, b = tiny.decoded[entry["adapter"]]["q"]
    columns = [[row[place] for row in b] for place in range(len(b[0]))]
    kept = {
        index: b"".join(number(value, "F32") for row in rows for value in row)
        for index, rows in enumerate((a, columns))
    }
    alone = tiny.adapter(entry["task"], 1, linear(), [None], kept=kept, groups=groups)
    assert alone["tensors"] == entry["tensors"]
    return str(alone["adapter"])


def _expire(tiny: Tiny, *versions: tuple[str, int]) -> None:
    told = [{"task": task, "version": version} for task, version in versions]
    tiny.record("expire", requires=FEATURE, versions=told)


def _purge(
    tiny: Tiny,
    task: str,
    adapters: Mapping[str, str],
    notes: Mapping[str, str],
    bases: list[str],
    requires: list[str] = FEATURE,
) -> None:
    lists = {
        name: [{"object": digest} | ({"by": by} if by else {}) for digest, by in sorted(of.items())]
        for name, of in (("adapters", adapters), ("notes", notes))
    }
    tiny.record("purge", requires=requires, task=task, **lists, bases=sorted(bases))
