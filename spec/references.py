"""Reference vectors: what each reference means in one store, or the clause that it breaks."""

from typing import Any, Final

from spec.tiny import SPACE, Tiny, linear, pair

_TIMES: Final = {5: "2026-01-05T23:59:59.999999Z", 6: "2026-01-06T00:00:00.000000Z"}
"""Of two commits around midnight; all others are at noon of the day of their number."""


def store() -> "Dated":
    """Return a store in which aliases return and are removed, a task is renamed, one dropped."""
    tiny = Dated()
    tiny.version("cola", 1)  # c2
    tiny.alias("cola", "prod", 1)
    tiny.version("cola", 2)  # c4
    tiny.version("cola", 3)
    for version in (3, 2, 3):
        tiny.alias("cola", "prod", version)  # c6 to c8
    tiny.record("tag", tag="release", commit=4)
    tiny.version("sst2", 1)  # c10
    for alias in ("old", "back"):
        tiny.alias("sst2", alias, 1)
        tiny.alias("sst2", alias, None)  # c12, c14
    tiny.version("sst2", 2)
    tiny.alias("sst2", "back", 2)  # c16
    tiny.record("rename", task="sst2", name="film")
    tiny.version("mnli", 1)  # c18
    tiny.record("drop", task="mnli")
    tiny.version("film", 3)  # c20
    return tiny


def store_of_a_later_release() -> "Dated":
    """Return that store with a record behind its last that this format does not know."""
    tiny = store()
    tiny.record("tag", tag="later", commit=1, requires=["later-feature"])
    return tiny


def meanings_before_a_later_release() -> list[list[str]]:
    """Return what references mean there: what can no longer change is answered (spec EVO-05)."""
    ids = store().ids
    table = {
        **_BEFORE,
        **dict.fromkeys(_UNKNOWN, "EVO-05"),
        f"@{ids[4]}": "tiny/@c4",
        f"cola@{ids[4][:8]}": "tiny/cola@v2",
        "@" + "0" * 64: "EVO-05",
    }
    return [[reference, meaning] for reference, meaning in table.items()]


def meanings() -> list[list[str]]:
    """Return references with what they mean, or the clause that refuses them."""
    ids = store().ids
    table = {
        **_VERSIONS,
        **_ALIASES,
        **_COMMITS,
        **_TIMES_OF,
        **_TASKS,
        **_MALFORMED,
        f"cola@{ids[4][:8]}": "tiny/cola@v2",
        f"@{ids[4]}": "tiny/@c4",
        f"@{ids[4][:8]}~1": "tiny/@c3",
        "@" + "0" * 64: "REF-07",
    }
    return [[reference, meaning] for reference, meaning in table.items()]


class Dated(Tiny):
    """A store whose commits are a day apart."""

    def __init__(self) -> None:
        self.ids: dict[int, str] = {}
        super().__init__()

    def record(self, kind: str, **members: Any) -> None:
        number = self.number + 1
        time = _TIMES.get(number, f"2026-01-{number:02}T12:00:00.000000Z")
        super().record(kind, time=time, **members)
        self.ids[number] = self.parent

    def version(self, task: str, version: int) -> None:
        """Add a version of a task."""
        self.absorb(self.adapter(task, version, linear(), [pair(f"{task}{version}")]))

    def alias(self, task: str, alias: str, version: int | None) -> None:
        """Move an alias, or remove it."""
        self.record("alias", task=task, alias=alias, version=version)


_VERSIONS: Final = {
    "cola": "tiny/cola@v3",
    f"{SPACE}/cola": "tiny/cola@v3",
    "cola@latest": "tiny/cola@v3",
    "cola@head": "tiny/cola@v3",
    "cola@v1": "tiny/cola@v1",
    "cola@v4": "REF-04",
    "cola~0": "tiny/cola@v3",
    "cola~2": "tiny/cola@v1",
    "cola~3": "REF-05",
    "cola@latest~1": "tiny/cola@v2",
    "cola@v3~2": "tiny/cola@v1",
    "cola@v3~3": "REF-05",
}
_ALIASES: Final = {
    # moved to v1, v3, v2 and v3
    "cola@prod": "tiny/cola@v3",
    "cola@prod~1": "tiny/cola@v2",
    "cola@prod~2": "tiny/cola@v3",
    "cola@prod~3": "tiny/cola@v1",
    "cola@prod~4": "REF-05",
    # removed
    "film@old": "REF-06",
    "film@old~1": "tiny/film@v1",
    "film@old~2": "REF-05",
    # removed, then set again
    "film@back": "tiny/film@v2",
    "film@back~1": "tiny/film@v1",
    "film@back~2": "REF-05",
    # of another task, and of none
    "film@prod": "REF-07",
    "cola@nix": "REF-07",
    "@prod": "REF-07",
}
_COMMITS: Final = {
    "cola@c4": "tiny/cola@v2",
    "cola@c3": "tiny/cola@v1",
    "cola@c4~1": "tiny/cola@v1",
    "cola@c4~2": "REF-05",
    "cola@c1": "REF-07",
    "cola@c21": "REF-07",
    "cola@release": "tiny/cola@v2",
    "cola@release~1": "tiny/cola@v1",
    "@c4": "tiny/@c4",
    f"{SPACE}/@c4": "tiny/@c4",
    "@c4~1": "tiny/@c3",
    "@c4~4": "REF-05",
    "@c21": "REF-07",
    "@release": "tiny/@c4",
    "@release~3": "tiny/@c1",
    "@latest": "tiny/@c20",
    "@head~19": "tiny/@c1",
    "@v3": "REF-08",
}
_TIMES_OF: Final = {
    "@2026-01-04": "tiny/@c4",
    "@2026-01-05": "tiny/@c5",
    "cola@2026-01-04": "tiny/cola@v2",
    "cola@2026-01-05~2": "tiny/cola@v1",
    "@2026-01-05T23:59": "tiny/@c5",
    "@2026-01-05T23:59:59": "tiny/@c5",
    "@2026-01-05T23:59:59.9": "tiny/@c4",
    "@2026-01-05T23:59:59.999999Z": "tiny/@c5",
    "@2026-01-06T00:00:00.000000Z": "tiny/@c6",
    "@2026-01-06T00:59:59+01:00": "tiny/@c5",
    "@2026-01-06T01:00:00+01:00": "tiny/@c6",
    "@2026-01-05T16:00-08:00": "tiny/@c6",
    "@2026-01-05 12:00": "tiny/@c4",
    "@2025-12-31": "REF-07",
    "@2027-01-01": "tiny/@c20",
    "@2026-02-30": "REF-01",
    "@9998-12-31": "tiny/@c20",
    "@9999-01-01": "REF-01",
    "@1899-12-31": "REF-01",
    "@2026-01-05T24:00": "REF-01",
    "@2026-01-05T12:00+24:00": "REF-01",
    "@2026-01-05T12": "REF-01",
    "@20260105": "REF-07",
}
_TASKS: Final = {
    "sst2": "tiny/film@v3",
    "sst2@v1": "tiny/film@v1",
    "sst2@c15": "tiny/film@v2",
    "film@c15": "tiny/film@v2",
    "film@c10": "tiny/film@v1",
    "film@c9": "REF-07",
    "mnli": "REF-09",
    "mnli~0": "REF-09",
    "mnli@v1": "tiny/mnli@v1",
    "mnli@c18": "tiny/mnli@v1",
    "mnli@c19": "REF-09",
    "mnli@2026-01-18": "tiny/mnli@v1",
    "nix": "REF-03",
    "nix/cola": "REF-02",
}
_MALFORMED: Final = dict.fromkeys(
    (
        "",
        "@",
        "cola@",
        "cola~",
        "~1",
        "cola@v1@v2",
        "tiny/cola/v1",
        "cola~1~1",
        "cola~-1",
        " cola",
        "cola\n",
        "Cola",
        "con",
        "cola@V3",
        "cola@v0",
        "cola@v03",
        "cola@c04",
        "cola~01",
        "cola~1234567890",
        "cola@v\u0663",
        "cola~\u0661",
        "cola@c\uff14",
        "@\u0662\u0660\u0662\u0666-01-05",
        "@ABCDEF01",
        "@" + "0" * 65,
        "cola@" + "x" * 65,
        "tiny/" + "x" * 252,
    ),
    "REF-01",
)
_BEFORE: Final = {
    "cola@v1": "tiny/cola@v1",
    "cola@v3~1": "tiny/cola@v2",
    "sst2@v1": "tiny/film@v1",
    "mnli@v1": "tiny/mnli@v1",
    "cola@c4": "tiny/cola@v2",
    "@c20": "tiny/@c20",
    "@c4~1": "tiny/@c3",
    "@release": "tiny/@c4",
    "cola@release~1": "tiny/cola@v1",
    "@2026-01-19": "tiny/@c19",
    "cola@2026-01-04": "tiny/cola@v2",
    "@v3": "REF-08",
    "cola@v03": "REF-01",
    "nix/cola": "REF-02",
}
_UNKNOWN: Final = (
    "cola",
    "cola~1",
    "@latest",
    "cola@head",
    "cola@v4",
    "cola@prod",
    "cola@prod~1",
    "film@old~1",
    "mnli",
    "mnli@c19",
    "nix",
    "nix@c3",
    "cola@c1",
    "@c21",
    "@later",
    "@2026-01-20",
    "cola@2026-01-20T12:00:00.000000Z",
    "@2025-12-31",
)
