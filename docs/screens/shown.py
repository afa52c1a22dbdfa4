"""What the pictures of the pages show: which page, in which theme, how wide, and of what registry.

The registry has the adapters that ship with the package, committed over some weeks.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from share_registry.cli.demo import DATA
from share_registry.outside.files import Outside
from share_registry.registry.opening import open_context
from share_registry.registry.registry import Registry

FOLDER: Final = Path(__file__).parent
SPACE: Final = "all-minilm-l6-v2"
MAX_BYTES: Final = 100_000
_BEGIN: Final = datetime(2026, 10, 5, 8, 40, tzinfo=UTC)
_BETWEEN: Final = timedelta(days=2, hours=3, minutes=17)
_TASK: Final = f"/tasks/{SPACE}/pos-gloss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """One picture.

    Attributes:
        path: Of the page.
        caption: What there is to see.
        theme: "light" or "dark".
        width: Of the window, in CSS pixels.
        height: At most so many of the page.
    """

    path: str
    caption: str
    theme: str = "light"
    width: int = 1240
    height: int = 2400


SCREENS: Final = {
    "spaces": Screen(path="/", caption="The spaces, and what was committed last"),
    "space": Screen(path=f"/spaces/{SPACE}", caption="The tasks of a space"),
    "space-dark": Screen(path=f"/spaces/{SPACE}", caption="The same in the dark", theme="dark"),
    "task": Screen(path=_TASK, caption="A task: its newest version, and what became of it"),
    "task-phone": Screen(
        path=f"/tasks/{SPACE}/nouns", caption="A merged task on a phone", width=390, height=1500
    ),
    "diff": Screen(
        path=f"/diff?a={SPACE}/pos-gloss@v1&b={SPACE}/pos-gloss@v3",
        caption="Two versions compared, module by module",
    ),
    "log": Screen(path=f"/spaces/{SPACE}/log", caption="The log of a space"),
    "log-of-all": Screen(
        path="/log?kind=alias", caption="Of all spaces, the moves of aliases", theme="dark"
    ),
    "commit": Screen(path=f"/commits/{SPACE}/c17", caption="A commit"),
    "live": Screen(path="/live?at=2026-10-20", caption="What was live on a date"),
    "changes": Screen(
        path="/changes?since=2026-10-25&until=2026-11-16",
        caption="What changed between two moments",
    ),
    "retention": Screen(
        path=f"/spaces/{SPACE}/retention?metric=acc", caption="What each commit did to each task"
    ),
    "spectra": Screen(path=f"{_TASK}/spectra", caption="How few directions hold dW", theme="dark"),
    "files": Screen(path=f"{_TASK}/files", caption="The files of a version"),
    "servers": Screen(path=f"{_TASK}/servers", caption="What servers make of it"),
    "verify": Screen(path="/verify?level=data", caption="Findings of verify"),
}


class Dated(Outside):
    """A world in which two days lie between two looks at the clock that a record is made from."""

    def __init__(self) -> None:
        super().__init__()
        self.days = 0

    @override
    def now(self) -> datetime:
        return _BEGIN + self.days * _BETWEEN


def write_registry(place: Path) -> None:
    """Make the registry of the pictures."""
    outside = Dated()
    context, _ = open_context(place, store=None, space=None, mode="c", outside=outside)
    with Registry(context) as registry:
        for verb, arguments, options in _STORY:
            getattr(registry, verb)(*arguments, **options)
            outside.days += 1


def _commit(source: str, task: str, author: str, message: str, acc: float) -> tuple[Any, ...]:
    team = "lexicon" if task in ("antonyms", "verb-frame") else "search"
    options = {
        "task": task,
        "author": author,
        "message": message,
        "labels": {"team": team},
        "metrics": {"acc": acc, "loss": round(1.12 - acc, 3)},
    }
    return "commit", (DATA / source,), options


def _alias(ref: str, alias: str, reason: str) -> tuple[Any, ...]:
    return "set_alias", (ref, alias), {"reason": reason, "author": "ops"}


_STORY: Final = (
    _commit("wn-pos-gloss/v1", "pos-gloss", "ana", "glosses of WordNet, one epoch", 0.781),
    _commit("wn-syn-ant/v1", "antonyms", "ben", "synonyms against antonyms", 0.842),
    _commit("wn-pos-gloss/v2", "pos-gloss", "ana", "two epochs more", 0.803),
    _alias("pos-gloss@v1", "prod", "first release"),
    _alias("antonyms@v1", "prod", "first release"),
    ("tag", ("release-1", "antonyms@v1"), {"author": "ops"}),
    _commit("wn-verb-frame/v1", "verb-frame", "carla", "frames of verbs", 0.688),
    _commit("wn-noun-abstract/v1", "noun-abstract", "ben", "abstract or concrete", 0.911),
    _alias("pos-gloss@v2", "canary", "CAB-71"),
    _commit("wn-pos-gloss/v3", "pos-gloss", "ana", "lower learning rate", 0.812),
    _alias("pos-gloss@v2", "prod", "CAB-74: a week as canary, no complaint"),
    _commit("wn-syn-ant/s42", "antonyms", "ben", "another seed", 0.829),
    _alias("pos-gloss@v3", "canary", "CAB-79"),
    _commit("wn-verb-frame/s42", "verb-frame", "carla", "another seed", 0.693),
    ("restore", ("antonyms@v1",), {"reason": "the other seed is worse", "author": "ben"}),
    (
        "merge",
        ({"pos-gloss@v3": 0.6, "noun-abstract@v1": 0.4},),
        {
            "task": "nouns",
            "author": "carla",
            "message": "glosses and nouns in one",
            "labels": {"team": "search"},
            "metrics": {"acc": 0.86, "loss": 0.26},
        },
    ),
    ("refit", (), {"max_rank": 8, "force": True, "author": "ops"}),
    _alias("pos-gloss@v3", "prod", "CAB-81"),
)
