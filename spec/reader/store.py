"""Chapters 03 and 07: files, the chain of records, and references to it."""

import re
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

from spec.reader.canonical import MAX_FORMAT, MAX_JSON, parse
from spec.reader.log import follow
from spec.reader.names import REFERENCE, is_name, is_selector, meaning_of
from spec.reader.refusals import DamagedError, NewerError, need

MAX_OBJECT = 4 << 30


class Store:
    def __init__(self, root):
        self.root = Path(root)
        self.format = self.read("FORMAT", MAX_FORMAT)
        parse(self.format, "format", "STO-03", MAX_FORMAT)

    def read(self, path, limit):
        path = self.root / path
        need(path.exists() or path.is_symlink(), "OBJ-02", f"there is no {path}")
        need(
            path.is_file() and not path.is_symlink() and path.stat().st_size <= limit,
            "STO-08",
            f"{path} is no file of at most {limit} bytes",
        )
        return path.read_bytes()

    def size(self, digest):
        path = self.root / f"objects/{digest[:2]}/{digest[2:]}"
        return path.stat().st_size if path.is_file() else 0

    def get(self, digest, limit=MAX_OBJECT):
        content = self.read(f"objects/{digest[:2]}/{digest[2:]}", limit)
        need(sha256(content).hexdigest() == digest, "OBJ-01", f"object {digest} has other bytes")
        return content

    # The paths of all records of a space, or of all spaces
    def records(self, space="*"):
        paths = self.root.glob(f"spaces/{space}/log/*.json")
        return sorted(path for path in paths if re.fullmatch(r"[0-9]{20}\.json", path.name))

    # The names of the spaces (spec REC-07)
    def spaces(self):
        return sorted({path.parts[-3] for path in self.records()})

    # The state of a space: its commits, its tags, and every task under every name it ever had
    # (spec REC-02 to REC-20, REC-22, REC-23, NAM-02, NAM-03)
    def log(self, space):
        paths = self.records(space)
        numbers = [int(path.stem) for path in paths]
        need(numbers == list(range(1, len(paths) + 1)), "REC-03", "a record is missing")
        state = SimpleNamespace(commits=[], aliases=set(), tags={}, tasks={}, newer=None)
        parent, time, keys = sha256(self.format).hexdigest(), "", set()
        for number, path in enumerate(paths, 1):
            content = self.read(path.relative_to(self.root), MAX_JSON)
            try:
                record = parse(content, "record", "REC-01")
            except NewerError as error:
                # what is before it stays as it was; what is newest is not known (spec EVO-05)
                state.newer = error
                break
            place, kind = (record["space"], record["number"]), record["kind"]
            need(place == (space, number), "REC-02", f"c{number} is of another place")
            need(record["parent"] == parent, "REC-03", f"c{number} does not follow c{number - 1}")
            need(record["time"] >= time, "REC-05", f"c{number} is earlier than c{number - 1}")
            need(record["key"] not in keys, "REC-06", f"c{number} repeats a key")
            need((kind == "create") == (number == 1), "REC-07", f"c{number} is of kind {kind}")
            parent, time, keys = sha256(content).hexdigest(), record["time"], {*keys, record["key"]}
            state.commits.append((parent, time))
            follow(state, record)
        return state

    # What a reference means (spec REF-01 to REF-03, REF-08, EVO-05)
    def resolve(self, text):
        match = re.fullmatch(REFERENCE, text)
        need(len(text) <= 256 and match and (match[2] or match[3]), "REF-01", text)
        space, name, selector, back = *match.group(1, 2), match[3] or "latest", int(match[4] or 0)
        names = all(is_name(part) for part in (space, name) if part)
        need(names and is_selector(selector), "REF-01", text)
        spaces = [space] if space else self.spaces()
        if len(spaces) > 1:
            spaces = [other for other in spaces if name in self.log(other).tasks]
        there = len(spaces) == 1 and spaces[0] in self.spaces()
        need(there, "REF-02", f"{text!r} is of no space, or of several")
        space = spaces[0]
        need(name or not re.fullmatch("v[0-9]+", selector), "REF-08", f"{text!r} is of no task")
        state = self.log(space)
        try:
            meaning = meaning_of(state, name, selector, back)
        except DamagedError as error:
            # what is not there may have come since
            raise NewerError(f"EVO-05: {state.newer}") if state.newer else error from error
        return f"{space}/{meaning}"
