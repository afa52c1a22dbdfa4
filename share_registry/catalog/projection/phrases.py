"""What a record did, as a phrase that `log` shows."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from share_registry.catalog.sql import clean
from share_registry.format.notes import EXPORT_HOST, EXPORT_PATH, EXPORT_TARGET, Note, TaskNote
from share_registry.format.records import (
    AnnotateRecord,
    DropRecord,
    ExpireRecord,
    ExportRecord,
    MergeRecord,
    PolicyBody,
    PurgeRecord,
    Record,
    RefitRecord,
)
from share_registry.look.units import count
from share_registry.names import first_and_more

# Tasks that a phrase names
_NAMED: Final = 3


def detail(record: Record, note: Note) -> str:
    """Return what a record did; a few words, or none."""
    match record.kind:
        case "create":
            return f"base model {clean(record.base_model.label)}"
        case "absorb":
            return "with a basis of their own" if record.basis else ""
        case "refit":
            return _refit_phrase(record)
        case "merge":
            return _merge_phrase(record)
        case "restore":
            return f"{record.task}@v{record.version} repeats v{record.of}"
        case "drop" | "expire" | "purge":
            return _removal_phrase(record)
        case "rename":
            return f"{record.task} is now called {record.name}"
        case "policy":
            return _policy_phrase(record.policy)
        case "alias":
            place = f"v{record.version}" if record.version else "removed"
            return f"{record.task}@{record.alias} is {place}"
        case "tag":
            return f"{record.tag} names c{record.commit}"
        case "annotate" | "export":
            return _annotation_phrase(record, note.of(record.task))
        case _:
            return ""


def _policy_phrase(policy: PolicyBody) -> str:
    originals = f"originals {'kept' if policy.keep_original else 'not kept'}"
    cut = f", pseudo-rank {policy.pseudo_rank}" if policy.pseudo_rank else ""
    if policy.require:
        originals += f", requires {', '.join(policy.require)}"
    if policy.k:
        return f"coefficients over {policy.k} directions, phi {policy.phi}{cut}, {originals}"
    if policy.max_dependents:
        cut += f", at most {policy.max_dependents} dependents"
    switches = {True: "on", False: "off"}
    return (
        f"budget {policy.budget}, {originals}, references {switches[policy.references]}, "
        f"refits {switches[policy.refit]}{cut}"
    )


def _merge_phrase(record: MergeRecord) -> str:
    parents = zip(record.weights, record.tasks[0].derived_from, strict=False)
    terms = " + ".join(f"{weight} {parent.task}@v{parent.version}" for weight, parent in parents)
    return f"{record.tasks[0].task}@v{record.tasks[0].version} = {terms}, {record.method}"


def _refit_phrase(record: RefitRecord) -> str:
    if not record.tasks:
        return f"basis {record.basis[:8]}, for later commits"
    return f"basis {record.basis[:8]}, {count(len(record.tasks), 'task')} re-expressed"


def _removal_phrase(record: DropRecord | ExpireRecord | PurgeRecord) -> str:
    """Return what a record removes: of many versions, a few by name."""
    if isinstance(record, DropRecord):
        return f"dropped {record.task}"
    if isinstance(record, PurgeRecord):
        return f"purged {record.task}"
    by_task: dict[str, list[int]] = defaultdict(list)
    for of in record.versions:
        by_task[of.task].append(of.version)
    tasks = [f"{task}@{_ranges(versions)}" for task, versions in by_task.items()]
    return f"expired {first_and_more(tasks, _NAMED)}"


def _ranges(versions: Sequence[int]) -> str:
    """Return sorted versions as `v1-v3,v7`."""
    runs: list[list[int]] = []
    for version in versions:
        if runs and runs[-1][-1] + 1 == version:
            runs[-1].append(version)
        else:
            runs.append([version])
    return ",".join(f"v{run[0]}" + (f"-v{run[-1]}" if len(run) > 1 else "") for run in runs)


def _annotation_phrase(record: AnnotateRecord | ExportRecord, note: TaskNote) -> str:
    """Return which labels and metrics a note changes, or where to a version was exported.

    The values of labels and metrics stand in the rows.
    """
    if isinstance(record, ExportRecord):
        said = {entry.name: clean(entry.value) for entry in note.labels}
        place = ":".join(said[name] for name in (EXPORT_HOST, EXPORT_PATH) if name in said)
        target = f" for {said[EXPORT_TARGET]}" if EXPORT_TARGET in said else ""
        form = f"{record.task}@v{record.version} ({record.profile}{target}, {record.digest[:8]})"
        return f"{form} to {place}" if place else form
    groups = {
        "labels": {entry.name for entry in note.labels},
        "metrics": {entry.name for entry in note.metrics},
        "removed": set(note.removed),
    }
    return clean(
        "; ".join(f"{word} {', '.join(sorted(names))}" for word, names in groups.items() if names)
    )
