"""What servers make of a version."""

from collections.abc import Mapping
from dataclasses import dataclass

from typing_extensions import override

from share_registry.look.units import count
from share_registry.values.sheet import Sheet, Shown
from share_registry.values.text_table import NOTHING, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One thing that one server does with a version.

    Attributes:
        target: The server, as `target=` calls it.
        outcome: "refused", "misread" (loaded, and another function or less than was trained), or
            "needs a setting".
        note: What it does, as a clause.
        hint: A way out; empty where none is known.
    """

    target: str
    outcome: str
    note: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Lint(Shown):
    """What servers make of the export of a version.

    Attributes:
        ref: The version.
        profile: Of the export.
        releases: By server that was asked, the release whose rules these are.
        verdicts: Everything that is to be said.
    """

    derived = ("ok",)
    ref: str
    profile: str
    releases: Mapping[str, str]
    verdicts: tuple[Verdict, ...]

    @property
    def ok(self) -> bool:
        """Whether no server that was asked refuses it or misreads it."""
        return all(verdict.outcome == "needs a setting" for verdict in self.verdicts)

    def __repr__(self) -> str:
        return f"<Lint {self.ref} {self.profile}: {count(len(self.verdicts), 'verdict')}>"

    @override
    def sheet(self) -> Sheet:
        clear = self.releases.keys() - {verdict.target for verdict in self.verdicts}
        servers = ", ".join(f"{name} {self.releases[name]}" for name in sorted(clear))
        has_hints = any(verdict.hint for verdict in self.verdicts)
        return Sheet(
            title=f"{self.ref}, exported as {self.profile}",
            facts=(("nothing to say of", servers),) if servers else (),
            tables=(
                Table.of(
                    (
                        {
                            "server": f"{verdict.target} {self.releases[verdict.target]}",
                            "outcome": verdict.outcome,
                            "note": verdict.note,
                        }
                        | ({"way out": verdict.hint or NOTHING} if has_hints else {})
                        for verdict in self.verdicts
                    ),
                    stacked=True,
                ),
            )
            if self.verdicts
            else (),
            refs=(self.ref,),
        )
