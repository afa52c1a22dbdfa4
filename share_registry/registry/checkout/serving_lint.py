"""What servers would make of the export of a version, before it is written."""

from typing import Final

from share_registry.errors import RefusedError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.diffusers_adapter import TARGET as DIFFUSERS
from share_registry.exchange.export_form import check_profile
from share_registry.exchange.gguf_adapter import TARGET as LLAMA_CPP
from share_registry.exchange.gguf_names import way_to_gguf
from share_registry.exchange.portable import portable
from share_registry.exchange.targets.servers import (
    TARGETS,
    check_target,
    notes_by_target,
    targets_for,
)
from share_registry.exchange.targets.subject import ServerOutcome
from share_registry.registry.checkout.checkout import (
    base_label,
    checkout,
    version_and_note,
)
from share_registry.registry.context import Context
from share_registry.values.lints import Lint, Verdict

_PORTABLE: Final = "Export it with profile='portable'."
_FOR_PIPELINES: Final = (
    "Export it with target='diffusers', which makes a file for its pipelines of it."
)
_ORDER: Final = [ServerOutcome.REFUSED, ServerOutcome.MISREAD, ServerOutcome.SETTING]


def lint_version(
    context: Context, ref: str, *, space: str | None, target: str | None, profile: str
) -> Lint:
    """Return what servers make of a version; see `Registry.lint`."""
    check_profile(profile)
    asked = None if target is None else [check_target(target)]
    row, _ = version_and_note(context, ref, space)
    label = base_label(context, row.space)
    adapter = checkout(context, row.ref, space=None)
    targets = targets_for(adapter) if asked is None else asked
    gguf = way_to_gguf(adapter)
    remaining = None if profile == "portable" else _portable_notes(adapter, label)
    if profile == "portable":
        # what cannot be written so is refused as the export would be
        adapter, _ = portable(adapter, base_model=label)
    notes = sorted(
        notes_by_target(adapter, base_model=label), key=lambda each: _ORDER.index(each[1])
    )
    verdicts = [
        Verdict(
            target=name,
            outcome=outcome,
            note=note,
            hint=gguf
            if gguf and name == LLAMA_CPP and outcome is not ServerOutcome.SETTING
            else _hint(name, note, remaining),
        )
        for name, outcome, note in notes
        if name in targets
    ]
    return Lint(
        ref=row.ref,
        profile=profile,
        releases={name: TARGETS[name].release for name in targets},
        verdicts=tuple(verdicts),
    )


def _hint(target: str, note: str, remaining: set[tuple[str, str]] | None) -> str:
    """Return which export leaves nothing to note, where there is one."""
    if remaining is None or (target, note) in remaining:
        return ""
    # with as much of an adapter as the portable form at least
    return _FOR_PIPELINES if target == DIFFUSERS else _PORTABLE


def _portable_notes(adapter: Adapter, label: str) -> set[tuple[str, str]] | None:
    """Return what is to be said of the portable form, by server; None where there is none."""
    try:
        plain, _ = portable(adapter, base_model=label)
    except RefusedError:
        return None
    return {(name, note) for name, _, note in notes_by_target(plain, base_model=label)}
