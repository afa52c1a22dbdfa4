"""Match regular expressions of a config against module paths in bounded work.

A config may be anybody's, and Python's `re` tries one way through an expression after another:
`(a|a)(a|a)...x` doubles its work with every group. Here all ways are followed at once. A set of
places in the path, one bit each, goes through the expression from left to right; every part of the
expression turns the places where it may begin into those where it may end. So work grows with the
expression and with the path and never with the number of ways, and what an expression matches is
exactly what it matches in `re` (https://www.cs.sfu.ca/~cameron/parabix2014.pdf).

References back to a group are the one thing that cannot be matched so. They, and what no config has
(atomic groups, possessive repetitions, flags but `(?i)`), are refused.
"""

import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from share_registry.errors import RefusedError

# Of one path and one expression; those of real configs need some hundred.
_MAX_STEPS_OF_PATH: Final = 1 << 16
# Of all paths and expressions of one config: a few seconds.
_MAX_STEPS: Final = 1 << 24
# What compiling one is worth: nearly a third of a millisecond.
_STEPS_TO_COMPILE: Final = 1000
_MAX_DEPTH: Final = 50
_TOO_DEEP: Final = f"groups nested deeper than {_MAX_DEPTH}"
_MANY: Final = sys.maxsize
_HINT: Final = "Write the module paths out."
_IGNORE_CASE: Final = "(?i)"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]*")
_REPETITION: Final = r"[*+?]|\{(?:[0-9]+|[0-9]*,[0-9]*)\}"
_TOKEN: Final = re.compile(
    rf"""
      (?P<open>\((?:\?(?::|P<\w+>|<?[=!])|(?!\?)))
    | (?P<repetition>{_REPETITION})\??(?!{_REPETITION})
    | (?P<edge>[$^]|\\[AbBZ])
    | (?P<letters>\[\^?\]?(?:\\.|[^\]\\])*\]|\\(?:x..|u.{{4}}|U.{{8}}|[dDsSwWafnrtv])|\.)
    | \\(?P<escaped>[^0-9a-zA-Z])
    | (?P<end>[)|])
    | (?P<letter>(?!{_REPETITION})[^\\()|*+?])
    """,
    re.VERBOSE | re.DOTALL,
)

# Places of a path as bits of an integer, and what turns the beginnings of a part into its ends.
Places: TypeAlias = int
Part: TypeAlias = Callable[[Places, "_Path"], Places]


class UnboundedExpressionError(Exception):
    """An expression has a part that cannot be matched in bounded work; says which."""


@dataclass(slots=True)
class Work:
    """What is left of the steps that the expressions of one config may take.

    Attributes:
        steps: How many are left.
        subject: How messages name where the expressions stand.
    """

    steps: int = _MAX_STEPS
    subject: str = "adapter_config.json"

    def spend(self, steps: int) -> None:
        """Take steps. Raises RefusedError where there are none left."""
        self.steps -= steps
        if self.steps < 0:
            raise RefusedError(
                f"{self.subject}: its expressions take more than"
                f" {_MAX_STEPS} steps on the modules of the adapter.",
                hint="Give fewer expressions, or name modules by the ends of their paths.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """An expression over paths.

    Attributes:
        text: What was compiled.
        part: What matches it.
        work: What its steps are taken from.
    """

    text: str
    part: Part
    work: Work

    def matches(self, path: str) -> bool:
        """Tell whether it matches the whole of a path, as `re.fullmatch`.

        Raises RefusedError where that takes too much work.
        """
        return bool(self._ends(path) >> len(path) & 1)

    def matches_beginning(self, path: str) -> bool:
        """Tell whether it matches a path from its beginning, as `re.match`. Raises RefusedError."""
        return bool(self._ends(path))

    def _ends(self, text: str) -> Places:
        path = _Path(text=text, expression=self.text, subject=self.work.subject)
        try:
            return self.part(1, path)
        finally:
            self.work.spend(path.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    r"""An expression that must match the end of a path, from a dot or from its beginning.

    It is `(.*\.)?(text)$`, as PEFT has it.

    Attributes:
        text: As it stands in the config.
        tail: The letters that every path ends with that it matches.
        whole: What matches it; None for letters and dots alone, as nearly all are: they are
            compared one by one.
        work: What its steps are taken from.
    """

    text: str
    tail: str
    whole: Expression | None
    work: Work

    def matches(self, path: str) -> bool:
        """Tell whether it matches. Raises RefusedError where that takes too much work."""
        if self.whole is not None:
            return self.whole.matches_beginning(path)
        self.work.spend(1)
        line = path.removesuffix("\n")
        place = len(line) - len(self.text)
        if not line.endswith(self.tail) or place < 0 or "\n" in line:
            return False
        if place > 0 and line[place - 1] != ".":
            return False
        return all(a in (".", b) for a, b in zip(self.text, line[place:], strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNumber:
    """An expression that finds the number of a layer in a path."""

    regex: re.Pattern[str]
    work: Work

    def find(self, path: str) -> int | None:
        """Return the number, None where there is none. Raises RefusedError for too much work."""
        self.work.spend(1 + len(path) ** 2 // 256)
        match = self.regex.match(path)
        return None if match is None else int(match["index"])


def compile_expression(text: str, work: Work) -> Expression:
    """Compile an expression over paths.

    Raises:
        ValueError: it is no regular expression.
        UnboundedExpressionError: it cannot be matched in bounded work.
        RefusedError: there are too many to compile.
    """
    work.spend(_STEPS_TO_COMPILE + 16 * len(text))
    try:
        _compile(text)
    except (re.error, OverflowError) as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise UnboundedExpressionError(_TOO_DEEP) from error
    return Expression(text=text, part=_Parser(text).parse(), work=work)


def _compile(text: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    with warnings.catch_warnings():
        # what may mean something else in a later Python means today what PEFT reads today
        warnings.simplefilter("ignore", FutureWarning)
        return re.compile(text, flags)


def compile_ending(text: str, work: Work) -> Ending:
    """Compile an expression that must match the end of paths. Raises as `compile_expression`."""
    whole = None if is_plain(text) else compile_expression(rf"(.*\.)?({text})$", work)
    return Ending(text=text, tail=text.rpartition(".")[2], whole=whole, work=work)


def compile_layer(name: str, work: Work) -> LayerNumber:
    """Compile what finds the number of a layer behind the name of their list.

    Raises:
        UnboundedExpressionError: the name is no plain one.
        RefusedError: there are too many to compile.
    """
    if not is_plain(name):
        raise UnboundedExpressionError("more than letters, digits and dots")
    work.spend(_STEPS_TO_COMPILE)
    return LayerNumber(regex=re.compile(rf"(?:^|.*?\.){name}\.(?P<index>\d{{1,18}})\."), work=work)


def is_plain(text: str) -> bool:
    """Tell whether an expression is letters, digits, `_`, `-` and dots alone."""
    return _PLAIN.fullmatch(text) is not None


class _Path:
    """A path, and where in it what matches; each is looked for once."""

    __slots__ = ("_expression", "_places", "_subject", "all", "end", "steps", "text")

    def __init__(self, *, text: str, expression: str, subject: str) -> None:
        self.text = text
        self._subject = subject
        self.steps = 0
        self.all: Places = (2 << len(text)) - 1
        self.end: Places = 1 << len(text)
        self._expression = expression
        self._places: dict[object, Places] = {}

    def spend(self, steps: int = 1) -> None:
        self.steps += steps
        if self.steps > _MAX_STEPS_OF_PATH:
            raise RefusedError(
                f"{self._subject}: the expression {self._expression[:80]!r} takes more than"
                f" {_MAX_STEPS_OF_PATH} steps on the path {self.text[:80]!r}.",
                hint=_HINT,
            )

    def of_letters(self, letters: re.Pattern[str]) -> Places:
        """Return where a letter stands that a class has."""
        if (places := self._places.get(letters)) is None:
            self.spend(1 + len(self.text) // 8)
            bits = (1 << match.start() for match in letters.finditer(self.text))
            places = self._places[letters] = sum(bits)
        return places

    def of_literal(self, literal: str) -> Places:
        """Return where a text stands."""
        if (places := self._places.get(literal)) is None:
            self.spend(1 + len(self.text) // 64)
            places, place = 0, self.text.find(literal)
            while place >= 0:
                self.spend()
                places |= 1 << place
                place = self.text.find(literal, place + 1)
            self._places[literal] = places
        return places


class _Parser:
    """Makes parts of an expression that `re` can compile."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._ignore_case = text.startswith(_IGNORE_CASE)
        self._place = len(_IGNORE_CASE) * self._ignore_case

    def parse(self) -> Part:
        return self._alternatives(depth=0)

    def _alternatives(self, *, depth: int) -> Part:
        if depth > _MAX_DEPTH:
            raise UnboundedExpressionError(_TOO_DEEP)
        branches = [self._sequence(depth)]
        while self._text.startswith("|", self._place):
            self._place += 1
            branches.append(self._sequence(depth))
        return _Alternatives(branches) if len(branches) > 1 else branches[0]

    def _sequence(self, depth: int) -> Part:
        parts: list[Part] = []
        while self._place < len(self._text) and self._text[self._place] not in "|)":
            token = self._next()
            if token["repetition"]:
                parts[-1] = _repeat(parts[-1], token["repetition"])
            else:
                parts.append(self._part(token, depth))
        return _Sequence(list(_join(parts)))

    def _next(self) -> re.Match[str]:
        token = _TOKEN.match(self._text, self._place)
        if token is None:
            raise UnboundedExpressionError(repr(self._text[self._place : self._place + 8]))
        self._place = token.end()
        return token

    def _part(self, token: re.Match[str], depth: int) -> Part:
        is_letter = token["letter"] or token["escaped"]
        if token["letters"] or (is_letter and self._ignore_case):
            flags = re.IGNORECASE if self._ignore_case else re.NOFLAG
            return _Letters(_compile(token[0], flags))
        if token["edge"]:
            return _EDGES[token["edge"]]
        if not token["open"]:
            return _Literal(token["escaped"] or token["letter"])
        part = self._alternatives(depth=depth + 1)
        self._place += 1
        look = token["open"].removeprefix("(?")
        if look in ("=", "!"):
            return _Ahead(part, negative=look == "!")
        return _Behind(part, negative=look == "<!") if look in ("<=", "<!") else part


def _join(parts: list[Part]) -> Iterator[Part]:
    """Yield parts with letters that follow each other as one text."""
    text = ""
    for part in parts:
        if isinstance(part, _Literal):
            text += part.text
            continue
        if text:
            yield _Literal(text)
        text = ""
        yield part
    if text:
        yield _Literal(text)


def _repeat(part: Part, repetition: str) -> Part:
    if repetition in "*+?":
        least, most = {"*": (0, _MANY), "+": (1, _MANY), "?": (0, 1)}[repetition]
        return _Repeated(part, least=least, most=most)
    first, comma, last = repetition[1:-1].partition(",")
    return _Repeated(part, least=int(first or 0), most=int(last or _MANY) if comma else int(first))


@dataclass(frozen=True, slots=True)
class _Literal:
    text: str

    def __call__(self, places: Places, path: _Path) -> Places:
        path.spend()
        return (places & path.of_literal(self.text)) << len(self.text)


@dataclass(frozen=True, slots=True)
class _Letters:
    letters: re.Pattern[str]

    def __call__(self, places: Places, path: _Path) -> Places:
        path.spend()
        return (places & path.of_letters(self.letters)) << 1


@dataclass(frozen=True, slots=True)
class _Sequence:
    parts: list[Part]

    def __call__(self, places: Places, path: _Path) -> Places:
        for part in self.parts:
            if not places:
                break
            places = part(places, path)
        return places


@dataclass(frozen=True, slots=True)
class _Alternatives:
    branches: list[Part]

    def __call__(self, places: Places, path: _Path) -> Places:
        ends = 0
        for branch in self.branches:
            ends |= branch(places, path)
        return ends


@dataclass(frozen=True, slots=True, kw_only=True)
class _Repeated:
    part: Part = field(kw_only=False)
    least: int
    most: int

    def __call__(self, places: Places, path: _Path) -> Places:
        for _ in range(self.least):
            path.spend()
            before, places = places, self.part(places, path)
            # what changes nothing once never does
            if places == before:
                break
        if self.most == _MANY and isinstance(self.part, _Letters):
            # a carry runs through every run of letters that begins at a place
            letters = path.of_letters(self.part.letters)
            return ((places & letters) + letters) ^ letters | places
        ends, left = places, self.most - self.least
        while places and left:
            path.spend()
            places = self.part(places, path) & ~ends
            ends |= places
            left -= 1
        return ends


@dataclass(frozen=True, slots=True)
class _Ahead:
    part: Part
    negative: bool

    def __call__(self, places: Places, path: _Path) -> Places:
        kept = 0
        while places:
            path.spend()
            place = places & -places
            kept |= place if bool(self.part(place, path)) != self.negative else 0
            places ^= place
        return kept


@dataclass(frozen=True, slots=True)
class _Behind:
    part: Part
    negative: bool

    def __call__(self, places: Places, path: _Path) -> Places:
        ends = self.part(path.all, path)
        return places & (~ends if self.negative else ends)


def _at_end(places: Places, path: _Path) -> Places:
    return places & (path.end | (path.end >> 1 if path.text.endswith("\n") else 0))


def _at_boundary(places: Places, path: _Path) -> Places:
    words = path.of_letters(_WORDS)
    return places & (words ^ words << 1)


def _inside(places: Places, path: _Path) -> Places:
    words = path.of_letters(_WORDS)
    return places & ~(words ^ words << 1)


_WORDS: Final = re.compile(r"\w")
_EDGES: Final[dict[str, Part]] = {
    "^": lambda places, path: places & 1,
    r"\A": lambda places, path: places & 1,
    "$": _at_end,
    r"\Z": lambda places, path: places & path.end,
    r"\b": _at_boundary,
    r"\B": _inside,
}
