"""The form in which an adapter is exported: as asked for, or as a server reads it rightly.

A server that refuses or misreads the adapter's own form may take the portable one. Where it takes
neither, the export is refused before anything is written, by the same rules as the lint.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

from share_registry.errors import InvalidInputError, RefusedError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.gguf_names import way_to_gguf
from share_registry.exchange.portable import portable
from share_registry.exchange.targets.servers import (
    TARGETS,
    check_target,
    lint,
    notes_by_target,
)
from share_registry.exchange.targets.subject import ServerOutcome

Profile = Literal["native", "portable"]
PROFILES: Final[tuple[Profile, ...]] = ("native", "portable")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportForm:
    """An adapter as it is written.

    Attributes:
        adapter: Its tensors and config.
        source: The adapter that it is made of; in memory as a whole where that is another.
        profile: "native": its own keys, config bytes, ranks and element types. "portable": scale
            folded into B, one rank, lora_alpha = r, a minimal config.
        changes: What the profile changed.
        notes: What servers would refuse or misread; where it is for one server, of that alone.
    """

    adapter: Adapter
    source: Adapter
    profile: Profile
    changes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_profile(text: str) -> Profile:
    """Return a profile of exports by its name. Raises InvalidInputError."""
    for profile in PROFILES:
        if profile == text:
            return profile
    raise InvalidInputError(
        f"profile {text!r} is not one of {', '.join(PROFILES)}.",
        hint="native is what was committed, portable what every server reads alike.",
    )


def form_of(
    adapter: Adapter, *, profile: str | None, target: str | None, base_model: str
) -> ExportForm:
    """Return the form of an export.

    Args:
        adapter: The adapter.
        profile: "native" or "portable"; None for the first that the target reads rightly, and for
            native where no target is given.
        target: The server that it is for; None for any.
        base_model: Label of the base model where the config names none, or a path.

    Raises:
        InvalidInputError: unknown profile or target.
        RefusedError: the portable form does not exist for this adapter, or the target refuses or
            misreads it in every form that was asked for.
    """
    asked = PROFILES if profile is None else (check_profile(profile),)
    if target is None:
        return _written_as(adapter, asked[0], None, base_model)
    check_target(target)
    first: list[str] = []
    for choice in asked:
        try:
            form = _written_as(adapter, choice, target, base_model)
        except RefusedError:
            # it has no portable form: what the target says of its own form is the reason
            if profile is not None:
                raise
            continue
        obstacles = _obstacles(form.adapter, target, base_model)
        if not obstacles:
            return form
        first = first or obstacles
    server = TARGETS[target]
    raise RefusedError(
        f"{adapter.ref or 'the adapter'} is not exported for {server.title} {server.release},"
        f" which {'; '.join(first)}.",
        hint=_way_out(adapter, profile, target, base_model),
    )


def _written_as(
    adapter: Adapter, profile: Profile, target: str | None, base_model: str
) -> ExportForm:
    source, changes = adapter, tuple[str, ...]()
    if profile == "portable":
        source = replace(adapter, tensors=dict(adapter.tensors))
        adapter, changes = portable(source, base_model=base_model)
    notes = lint(adapter, base_model=base_model, target=target)
    return ExportForm(adapter=adapter, source=source, profile=profile, changes=changes, notes=notes)


def _obstacles(adapter: Adapter, target: str, base_model: str) -> list[str]:
    """Return what a server refuses or misreads of an adapter, as clauses."""
    return [
        note
        for name, outcome, note in notes_by_target(adapter, base_model=base_model)
        if name == target and outcome is not ServerOutcome.SETTING
    ]


def _way_out(adapter: Adapter, profile: str | None, target: str, base_model: str) -> str:
    """Return the form that the target takes, or the servers that take what it is."""
    if profile == "native" and _is_served_portable(adapter, target, base_model):
        return "Export it with profile='portable', or leave the profile out."
    unable = {
        name
        for name, outcome, _ in notes_by_target(adapter, base_model=base_model)
        if outcome is not ServerOutcome.SETTING
    }
    able = [name for name in TARGETS if name not in unable and TARGETS[name].reads_directories]
    if able:
        return f"Served as it is by: {', '.join(able)}."
    if target != "llama.cpp" and (way := way_to_gguf(adapter)):
        return way
    return "Export it without a target: its notes say what each server makes of it."


def _is_served_portable(adapter: Adapter, target: str, base_model: str) -> bool:
    try:
        plain, _ = portable(adapter, base_model=base_model)
    except RefusedError:
        return False
    return not _obstacles(plain, target, base_model)
