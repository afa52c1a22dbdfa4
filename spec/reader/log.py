"""Chapter 03: the state of a space after each record."""

import re
from types import SimpleNamespace

from spec.reader.names import RESERVED
from spec.reader.refusals import need
from spec.reader.removals import expire, purge


# The state after one more record (spec REC-08 to REC-20, REC-22 to REC-24, NAM-02, NAM-03)
def follow(state, record):
    kind, told = record["kind"], record.get("tasks", [record] if "task" in record else [])
    names = [entry["task"] for entry in told]
    need(names == sorted(set(names)), "REC-08", "tasks out of order")
    parents = [of for entry in told for of in entry.get("derived_from", ())]
    for of in parents:
        parent = state.tasks.get(of["task"])
        there = parent and of["version"] <= len(parent.versions)
        need(there, "REC-08", "a parent that is not there")
        need(parent.name == of["task"], "NAM-02", "a parent under another name")
    for entry in told:
        follow_task(state, record, entry)
    if kind == "merge":
        need(len(record["weights"]) == len(parents), "REC-18", "not one weight for each parent")
    if kind == "tag":
        need(record["tag"] not in state.tags, "REC-12", "a tag that is there")
        need(record["commit"] < len(state.commits), "REC-12", "a tag of a later commit")
        state.tags[record["tag"]] = record["commit"]
    if kind == "expire":
        expire(state, record)
    if kind == "purge":
        purge(state, record)
    if kind == "alias":
        state.aliases.add(record["alias"])
    if kind in ("alias", "tag"):
        name = record[kind]
        need(not re.fullmatch(RESERVED, name), "NAM-03", f"{name} reads as another selector")
        need(not (name in state.tags and name in state.aliases), "NAM-03", f"two things are {name}")


# What a record does to one of its tasks
def follow_task(state, record, entry):
    kind, name = record["kind"], entry["task"]
    if kind in ("absorb", "merge"):
        new = SimpleNamespace(name=name, versions=[], live=False, lives=[], aliases={})
        state.tasks.setdefault(name, new)
    task = state.tasks.get(name)
    need(task and task.name == name, "NAM-02", f"{name} is not what a task is called then")
    there = entry.get("version", 1) <= len(task.versions)
    kept = there and "removed" not in task.versions[entry.get("version", 1) - 1]
    if kind in ("absorb", "refit", "merge", "restore"):
        add_version(state, record, entry, task)
        task.live = True
    elif kind == "drop":
        need(task.live, "REC-11", "dropped already")
        task.live = False
    elif kind == "purge":
        task.live = False
    elif kind == "rename":
        other = state.tasks.setdefault(entry["name"], task)
        need(other is task and entry["name"] != name, "REC-11", "another's name, or its own")
        task.name = entry["name"]
    elif kind == "alias":
        moves = task.aliases.setdefault(entry["alias"], [])
        need(there, "REC-12", "a version that is not there")
        need("version" in entry or (moves and moves[-1]), "REC-12", "an alias that is not there")
        need(kept or "version" not in entry, "REC-22", "a version that was removed")
        moves.append(entry.get("version"))
    elif kind == "annotate":
        need(there, "REC-13", "a version that is not there")
        need(kept, "REC-22", "a version that was removed")
    elif kind == "export":
        need(there, "REC-24", "a version that is not there")
        need("exports" in record.get("requires", ()), "REC-24", "without the feature")
    task.lives.append((len(state.commits), task.live))


# A new version: what was said of the adapter, and where it stands
def add_version(state, record, entry, task):
    kind, version, versions = record["kind"], entry["version"], task.versions
    clause = {"restore": "REC-10", "refit": "REC-16"}.get(kind, "REC-08")
    follows = version == len(versions) + 1 and entry.get("of", 0) < version
    need(follows, clause, f"v{version} out of order")
    if kind == "restore":
        told = versions[entry["of"] - 1]
        need("removed" not in told, "REC-22", "a version that was removed")
    else:
        within = float(entry["error"]) <= float(entry.get("budget", "inf"))
        need(within, "REC-09", "an error above the budget")
        told = {**entry, "note": record.get("note"), "said": entry["task"]}
    if kind == "refit":
        same = task.live and "before" in entry and carries(entry, versions[-1])
        need(same, "REC-16", "of another adapter")
        told |= {name: versions[-1][name] for name in ("note", "said")}
    else:
        need("before" not in entry, "REC-17", "not re-expressed")
    number, (digest, time) = len(state.commits), state.commits[-1]
    place = {"space": record["space"], "ref": f"{record['space']}/{entry['task']}@v{version}"}
    versions.append({**told, **place, "number": number, "id": digest, "time": time})


# Whether a version that is re-expressed is of the same adapter (spec REC-16)
def carries(entry, last):
    return all(entry[name] == last[name] for name in ("source", "layout", "raw_bytes")) and all(
        float(entry[name]) == float(last[of])
        for name, of in (("norm", "norm"), ("before", "error"))
    )
