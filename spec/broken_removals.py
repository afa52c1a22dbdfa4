"""Bad vectors of versions that are removed, named by the clause that is broken (REC-22, REC-23)."""

from collections.abc import Callable, Mapping
from typing import Any

from spec.tiny import Tiny, linear, pair, spread
from spec.writing import canonical

Change = Callable[[Tiny, dict[str, Any]], None]
FEATURE = ["removals"]
ABSENT = ("1" * 64, "2" * 64, "3" * 64)
"""Digests of no object, in their order."""


def _after(*records: Mapping[str, Any], versions: int = 2) -> Change:
    """Add versions of the same task and records."""

    def change(tiny: Tiny, entry: dict[str, Any]) -> None:
        for version in range(2, versions + 1):
            tiny.absorb(entry | {"version": version})
        for record in records:
            tiny.record(**record)

    return change


def _expire(*versions: int, **members: Any) -> dict[str, Any]:
    told = [{"task": "cola", "version": version} for version in versions]
    return {"kind": "expire", "requires": FEATURE, "versions": told} | members


def _purge(**members: Any) -> dict[str, Any]:
    return {"kind": "purge", "requires": FEATURE, "task": "cola"} | members


def _of(*digests: str, by: str | None = None) -> list[dict[str, str]]:
    return [{"object": digest} | ({} if by is None else {"by": by}) for digest in digests]


def _tasks_out_of_order(tiny: Tiny, entry: dict[str, Any]) -> None:
    tiny.absorb(entry | {"version": 2})
    for version in (1, 2):
        tiny.absorb(entry | {"task": "sst2", "version": version})
    versions = [{"task": task, "version": 1} for task in ("sst2", "cola")]
    tiny.record(**_expire(versions=versions))


def _first_version_again(tiny: Tiny, entry: dict[str, Any]) -> None:
    tiny.record(**_purge())
    tiny.absorb(entry)


def _refitted(tiny: Tiny, entry: dict[str, Any]) -> None:
    tiny.record(**_purge())
    basis = tiny.basis({"q": (spread("A", 2, 5, 9), [[1, 2, 3]])})
    tiny.refit(basis, entry | {"version": 2, "before": entry["error"]})


def _replaced(name: str, put: Callable[[Tiny], str | None]) -> Change:
    """Replace the adapter object or the note of a task when another one is purged."""

    def change(tiny: Tiny, entry: dict[str, Any]) -> None:
        tiny.absorb(entry | {"task": "mnli", "adapter": _same(tiny, entry)})
        tiny.absorb(entry | {"task": "sst2"})
        replaced = entry["adapter"] if name == "adapters" else _last_note(tiny)
        tiny.record(**_purge(task="mnli", **{name: _of(replaced, by=put(tiny))}))

    return change


def _same(tiny: Tiny, entry: dict[str, Any]) -> str:
    """Add an object of the same tensors and other bytes; return its digest."""
    made = tiny.adapter("cola", 1, linear(), [pair("cola")], change=_with_another_error)
    assert made["tensors"] == entry["tensors"]
    return str(made["adapter"])


def _with_another_error(made: Any) -> None:
    made.errors = [made.errors[0] + 1]


def _last_note(tiny: Tiny) -> str:
    notes = [path for path, content in tiny.files.items() if b'"kind":"note"' in content]
    return notes[-1].removeprefix("objects/").replace("/", "")


def _other_tensors(tiny: Tiny) -> str:
    return str(tiny.adapter("cola", 1, linear(), [pair("another")])["adapter"])


def _other_layout(tiny: Tiny) -> str:
    return str(tiny.adapter("cola", 1, linear("BF16"), [pair("cola")])["adapter"])


def _without_config(tiny: Tiny) -> str:
    return tiny.put(canonical({"format": 1, "kind": "note"}))


_RESTORE = {"kind": "restore", "task": "cola", "version": 3, "of": 1}
_ALIAS = {"kind": "alias", "task": "cola", "alias": "prod", "version": 1}
_ANNOTATE = {"kind": "annotate", "task": "cola", "version": 1}
CHANGES: dict[str, Change] = {
    "REC-22-feature": _after(_expire(1, requires=[])),
    "REC-22-order": _after(_expire(2, 1), versions=3),
    "REC-22-order-of-tasks": _tasks_out_of_order,
    "REC-22-twice": _after(_expire(1, 1)),
    "REC-22-no-version": _after(_expire(3)),
    "REC-22-expired-before": _after(_expire(1), _expire(1, 2), versions=3),
    "REC-22-purged-before": _after(_purge(), _expire(1)),
    "REC-22-newest": _after(_expire(1, 2)),
    "REC-22-restored-since": _after({"kind": "drop", "task": "cola"}, _RESTORE, _expire(3)),
    "REC-22-alias": _after(_ALIAS, _expire(1)),
    "REC-22-alias-of-a-dropped-task": _after(_ALIAS, {"kind": "drop", "task": "cola"}, _expire(1)),
    "REC-22-restore": _after(_expire(1), _RESTORE),
    "REC-22-restore-of-purged": _after(_purge(), _RESTORE),
    "REC-22-alias-to-removed": _after(_expire(1), _ALIAS),
    "REC-22-annotate": _after(_expire(1), _ANNOTATE),
    "REC-23-feature": _after(_purge(requires=["float-heads"])),
    "REC-23-adapter-without-by": _after(_purge(adapters=_of(ABSENT[0]))),
    "REC-23-order-of-adapters": _after(_purge(adapters=_of(*ABSENT[1::-1], by=ABSENT[2]))),
    "REC-23-order-of-notes": _after(_purge(notes=_of(*ABSENT[::-1]))),
    "REC-23-order-of-bases": _after(_purge(bases=list(ABSENT[::-1]))),
    "REC-23-note-twice": _after(_purge(notes=_of(ABSENT[0], ABSENT[0]))),
    "REC-23-basis-twice": _after(_purge(bases=[ABSENT[0], ABSENT[0]])),
    "REC-23-note-and-basis": _after(_purge(notes=_of(ABSENT[0]), bases=[ABSENT[0]])),
    "REC-23-by-that-is-replaced": _after(
        _purge(notes=[*_of(ABSENT[0], by=ABSENT[1]), *_of(ABSENT[1])])
    ),
    "REC-23-by-itself": _after(_purge(notes=_of(ABSENT[0], by=ABSENT[0]))),
    "REC-23-by-a-basis": _after(_purge(adapters=_of(ABSENT[0], by=ABSENT[1]), bases=[ABSENT[1]])),
    "REC-08-first-version-of-a-purged-task": _first_version_again,
    "REC-11-drop-of-a-purged-task": _after(_purge(), {"kind": "drop", "task": "cola"}),
    "REC-12-alias-that-a-purge-removed": _after(_ALIAS, _purge(), _ALIAS | {"version": None}),
    "REC-16-refit-of-a-purged-task": _refitted,
    "DEC-12-by-of-other-tensors": _replaced("adapters", _other_tensors),
    "REC-08-by-of-another-layout": _replaced("adapters", _other_layout),
    "OBJ-02-by-missing": _replaced("adapters", lambda tiny: ABSENT[0]),
    "NOT-04-by-without-config": _replaced("notes", _without_config),
    "NOT-06-purged-note": _replaced("notes", lambda tiny: None),
    "NOT-06-by-missing": _replaced("notes", lambda tiny: ABSENT[0]),
}
