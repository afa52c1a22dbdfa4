"""List the versions of a store, or write the files of one."""

import re
import sys
from pathlib import Path

from spec.reader.exports import export
from spec.reader.store import Store


# Print every version of a store; what is of a later format is said at the end
def show(store):
    states = {space: store.log(space) for space in store.spaces()}
    for space, state in states.items():
        for name, task in sorted(state.tasks.items()):
            for number, version in enumerate(task.versions if task.name == name else (), 1):
                commit, error = f"c{version['number']} {version['id'][:8]}", version["error"]
                removed = f" removed by c{version['removed']}" if "removed" in version else ""
                print(f"{space}/{name}@v{number} {commit} error {error}{removed}")
    for state in states.values():
        if state.newer:
            raise state.newer


# Write the files of a version
def write(store, ref, folder):
    space, task, number = re.fullmatch(r"([^/@]+)/([^/@]+)@v([0-9]+)", ref).groups()
    state, number = store.log(space), int(number)
    versions = state.tasks[task].versions
    if state.newer and number > len(versions):
        raise state.newer
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in export(store, versions[number - 1]).items():
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    if sys.argv[2] == "--list":
        show(Store(sys.argv[1]))
    else:
        write(Store(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
