"""The versions of a task in time, and which of them each alias stood for."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from share_registry.escapes import one_line
from share_registry.look.histories import Move, TaskHistory, histories, lives, stands
from share_registry.look.palette import SERIES
from share_registry.look.svg import (
    Link,
    drawing,
    element,
    ending,
    label,
    linked_to,
    path,
    tipped,
    width_of,
)
from share_registry.look.units import count, time_text

if TYPE_CHECKING:
    from share_registry.values.commits import Commit, Log

# Pixels from one event to the next: as many as there is room for
_WIDEST: Final = 56.0
_NARROWEST: Final = 10.0
_ROOM: Final = 900.0
_LANE: Final = 26.0
_BAR: Final = 18.0
_TOP: Final = 22.0
_GAP: Final = 12.0
_LINE: Final = 16.0
_LONGEST_NAME: Final = 120.0
# Beyond the last event, for what holds until now
_NOW: Final = 34.0
_MOST_EVENTS: Final = 400
_MOST_NAMED: Final = 30


@dataclass(frozen=True, slots=True)
class _Ruler:
    """Where commits stand: each event of the task one step after the one before."""

    numbers: Sequence[int]
    left: float
    step: float

    def x(self, number: int) -> float:
        return self.left + self.step * (bisect_right(self.numbers, number) - 0.5)

    @property
    def right(self) -> float:
        return self.left + self.step * len(self.numbers) + _NOW


def timeline(log: "Log", *, link: Link | None = None) -> str:
    """Draw the history of a task from left to right: a point a version, a bar what an alias is.

    Every event has the same room, whatever time lies between; dates stand below.

    Args:
        log: Of one task: `log(task="cola", limit=None)`.
        link: The address of a version, given as `space/task@vN`.
    """
    (space, task), history = next(iter(histories(log).items()), (("", ""), TaskHistory()))
    numbers = sorted(history.commits)[-_MOST_EVENTS:]
    aliases = sorted(history.moves)
    names = [ending(name, _LONGEST_NAME) for name in ("versions", *aliases)]
    step = min(max(_ROOM / max(len(numbers), 1), _NARROWEST), _WIDEST)
    ruler = _Ruler(numbers, max(map(width_of, names)) + _GAP, step)
    bottom = _TOP + _LANE * (1 + len(aliases))
    parts = [*_commits(history, ruler, bottom)]
    for lane, name in enumerate(names):
        parts.append(label(0, _middle(lane) + 4, name, "muted" if lane == 0 else ""))
    for lane, alias in enumerate(aliases, 1):
        parts += _bars(history.moves[alias], ruler, alias=alias, lane=lane)
    parts += _points(history, ruler, f"{space}/{task}", link)
    return drawing(
        "timeline",
        *parts,
        title=f"{task}: {count(len(history.versions), 'version')} in time",
        description=_describe(history),
        width=max(ruler.right, 160.0),
        height=bottom + 2 * _LINE + 4.0,
        linked=link is not None,
    )


def _middle(lane: int) -> float:
    return _TOP + _LANE * (lane + 0.5)


def _points(history: TaskHistory, ruler: _Ruler, task: str, link: Link | None) -> Iterator[str]:
    """Yield the line of the versions, broken where the task was dropped, and its points."""
    y = _middle(0)
    numbers = [number for number in history.versions if number in ruler.numbers]
    for first, last in lives(history):
        end = ruler.right if last is None else ruler.x(last)
        yield path("axis", "M", max(ruler.x(first), ruler.left), y, "H", max(end, ruler.left))
    for number in history.ends:
        if number in ruler.numbers:
            x = ruler.x(number)
            cross = path("line bad", "M", x - 4, y - 4, "l", 8, 8, "m", 0, -8, "l", -8, 8)
            yield tipped(_tip(history.commits[number]), cross)
    free = 0.0
    for number in numbers:
        x, version = ruler.x(number), history.versions[number]
        name = f"v{version}"
        mark = element(
            "circle", class_="ring" if _is_refit(history, number) else "dot", cx=x, cy=y, r=5.5
        )
        parts = [mark]
        if x - width_of(name) / 2 >= free:
            parts.append(label(x, y - 10, name, "middle strong"))
            free = x + width_of(name) / 2 + 4
        address = link(f"{task}@{name}") if link else None
        tip = f"{name}, {_tip(history.commits[number])}"
        yield tipped(tip, linked_to(address, *parts))


def _is_refit(history: TaskHistory, number: int) -> bool:
    return history.commits[number].kind == "refit"


def _bars(moves: Sequence[Move], ruler: _Ruler, *, alias: str, lane: int) -> Iterator[str]:
    """Yield a bar for every span of commits in which an alias stood for one version."""
    y = _middle(lane)
    for version, number, after in stands(moves):
        if after is not None and after < ruler.numbers[0]:
            continue
        left = max(ruler.x(number), ruler.left)
        right = ruler.right if after is None else ruler.x(after)
        name = f"v{version}"
        until = "now" if after is None else f"c{after}"
        bar = element(
            "rect",
            class_=f"span series-{(lane - 1) % SERIES}",
            x=left + 1,
            y=y - _BAR / 2,
            width=max(right - left - 2, 2.0),
            height=_BAR,
            rx=4,
        )
        fits = right - left > width_of(name) + 8
        text = [label(left + 8, y + 4, name)] if fits else []
        yield tipped(f"{alias} is {name} from c{number} to {until}", bar, *text)


def _commits(history: TaskHistory, ruler: _Ruler, bottom: float) -> Iterator[str]:
    """Yield a line for every event, with its commit and the day where these are new and fit."""
    free, free_day, before = 0.0, 0.0, ""
    for number in ruler.numbers:
        x, name = ruler.x(number), f"c{number}"
        yield path("grid", "M", x, _TOP, "V", bottom)
        if x - width_of(name) / 2 >= free:
            yield label(x, bottom + _LINE, name, "muted middle")
            free = x + width_of(name) / 2 + 4
        day = time_text(history.commits[number].time)[:10]
        start = x - width_of(name) / 2
        if day != before and start >= free_day:
            yield label(start, bottom + 2 * _LINE, day, "muted")
            free_day, before = start + width_of(day) + _GAP, day


def _tip(commit: "Commit") -> str:
    who = f", {commit.author}" if commit.author else ""
    said = f": {commit.message}" if commit.message else ""
    return one_line(f"c{commit.number} {commit.kind}, {time_text(commit.time)} UTC{who}{said}")


def _describe(history: TaskHistory) -> str:
    """Return the newest versions and moves in words."""
    numbers = [*history.versions.items()][-_MOST_NAMED:]
    sentences = [", ".join(f"v{version} in c{number}" for number, version in numbers)]
    sentences += [
        f"{alias}: {_spoken(moves)}" for alias, moves in sorted(_newest(history.moves).items())
    ]
    if history.ends:
        ends = ", ".join(f"c{number}" for number in history.ends)
        sentences.append(f"dropped in {ends}")
    return ". ".join(filter(None, sentences)) + "."


def _newest(
    moves: Mapping[str, Sequence[Move]],
) -> dict[str, Sequence[Move]]:
    return {alias: moves[alias][-_MOST_NAMED:] for alias in [*moves][:_MOST_NAMED]}


def _spoken(moves: Sequence[Move]) -> str:
    return ", ".join(
        f"removed in c{number}" if version is None else f"v{version} from c{number} on"
        for number, version in moves
    )
