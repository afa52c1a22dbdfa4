"""Chapter 03: versions that are not read any more, and what is read in place of objects."""

from spec.reader.refusals import need


# Versions that a record removes (spec REC-22)
def expire(state, record):
    told = [(of["task"], of["version"]) for of in record["versions"]]
    need("removals" in record.get("requires", ()), "REC-22", "the feature is not required")
    need(told == sorted(set(told)), "REC-22", "versions out of order, or twice")
    for name, number in told:
        task = state.tasks.get(name)
        need(task and task.name == name, "NAM-02", f"{name} is not what a task is called then")
        there = number <= len(task.versions) and "removed" not in task.versions[number - 1]
        need(there, "REC-22", f"{name}@v{number} is not there, or not any more")
        newest = task.live and number == len(task.versions)
        pointed = any(moves[-1] == number for moves in task.aliases.values())
        need(not newest and not pointed, "REC-22", f"{name}@v{number} is what somebody gets")
        task.versions[number - 1]["removed"] = len(state.commits)


# A task that a record removes, and what is read in place of objects (spec REC-23)
def purge(state, record):
    need("removals" in record.get("requires", ()), "REC-23", "the feature is not required")
    task, adapters, notes = (
        state.tasks[record["task"]],
        *map(by_object(record), ("adapters", "notes")),
    )
    bases = record.get("bases", [])
    need(bases == sorted(set(bases)), "REC-23", "bases out of order, or twice")
    need(all(adapters.values()), "REC-23", "nothing in place of an adapter object")
    replaced = [*adapters, *notes, *bases]
    need(len(set(replaced)) == len(replaced), "REC-23", "an object that is replaced twice")
    by = {*adapters.values(), *notes.values()}
    need(by.isdisjoint(replaced), "REC-23", "an object in place of another that is replaced")
    for version in task.versions:
        version.setdefault("removed", len(state.commits))
    for moves in task.aliases.values():
        if moves[-1]:
            moves.append(None)
    # of a task that has several names once more: nothing is replaced then
    for version in (version for each in state.tasks.values() for version in each.versions):
        version["adapter"] = adapters.get(version["adapter"], version["adapter"])
        version["note"] = notes.get(version["note"], version["note"])


# What stands in a list of a record by object; the empty text where nothing does (spec REC-23)
def by_object(record):
    def listed(name):
        items = record.get(name, [])
        objects = [item["object"] for item in items]
        need(objects == sorted(set(objects)), "REC-23", f"{name} out of order, or twice")
        return {item["object"]: item.get("by", "") for item in items}

    return listed
