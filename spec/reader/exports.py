"""Chapter 10: the files of a version."""

import json
import re
from hashlib import sha256

from spec.reader.binary import safetensors
from spec.reader.canonical import MAX_JSON, canonical, parse
from spec.reader.decoding import decode
from spec.reader.refusals import RemovedError, need

MAX_CONFIG = 1 << 20
MAX_NAME = 255
REPLACED = "\ufffd"
ENDS_CODE = re.compile("[`\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
CONFIG, TENSORS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"


# The files of a version (spec EXP-01, EXP-02, REC-22)
def export(store, version):
    removed = f"{version['ref']} was removed by c{version.get('removed')}"
    need("removed" not in version, "REC-22", removed, RemovedError)
    said = said_of(store, version)
    config = store.get(said["config"], MAX_CONFIG)
    need(is_object(config), "EXP-02", "the configuration is no JSON object")
    adapter, _, tensors = decode(store, version["adapter"])
    return {
        CONFIG: config,
        TENSORS: tensor_file(version, adapter, tensors),
        CARD: card(version, label_of(store, version["space"])),
        **attached(store, said.get("attachments", ())),
    }


# What the note of a version says of its task (spec NOT-03, NOT-04, NOT-06)
def said_of(store, version):
    removed = "the note, and with it the configuration, is not in the store, or was purged"
    # of none at all nothing was removed; in place of the empty text nothing is read (spec REC-23)
    there = version["note"] is None or store.size(version["note"])
    need(there, "NOT-06", removed, RemovedError)
    note = parse(store.get(version["note"], MAX_JSON), "note", "NOT-01") if version["note"] else {}
    said = [said for said in note.get("tasks", ()) if said["task"] == version["said"]][:1]
    need(said and "config" in said[0], "NOT-04", "the note names no configuration")
    return said[0]


# `adapter_model.safetensors` (spec REC-08, DEC-11, DEC-12)
def tensor_file(version, adapter, tensors):
    same = adapter.header["layout"] == version["layout"]
    need(same, "REC-08", "another layout than the adapter object's")
    specs = adapter.layout["tensors"]
    content = safetensors(
        [(entry["name"], entry["value"]) for entry in adapter.layout["metadata"]],
        [(spec["key"], spec["dtype"], spec["shape"], tensors[i]) for i, spec in enumerate(specs)],
    )
    same = sha256(content).hexdigest() == version["tensors"]
    need(same, "DEC-12", "other tensors than were committed")
    return content


# Attachments under the names that an export gives them (spec EXP-04, NOT-04)
def attached(store, entries):
    contents, files = {}, {}
    for entry in entries:
        contents[entry["name"]] = store.get(entry["object"])
        need(len(contents[entry["name"]]) == entry["size"], "NOT-04", "another size")
    cards = [name for name in sorted(contents) if name.casefold() == CARD.casefold()]
    for name in sorted(contents.keys() - {*cards}):
        present = {other.casefold() for other in (CONFIG, TENSORS, *files)}
        if len(name.encode()) <= MAX_NAME and name.casefold() not in present:
            files[name] = contents[name]
    for name in cards:
        numbers = ("", *(f".{number}" for number in range(2, len(files) + 3)))
        targets = (f"README.source{number}.md" for number in numbers)
        files[next(target for target in targets if target not in files)] = contents[name]
    return files


# The label of the base model of a space
def label_of(store, space):
    first = store.read(f"spaces/{space}/log/{1:020}.json", MAX_JSON)
    return parse(first, "record", "REC-01")["base_model"]["label"]


# The model card (spec EXP-03)
def card(version, base):
    base = base.replace("\0", REPLACED)
    budget = f" (budget {float(version['budget']):.3g})" if "budget" in version else ""
    error = f"{float(version['error']):.3g}{budget}"
    whose = f" for `{ENDS_CODE.sub(REPLACED, base)}`" if base else ""
    lines = [
        "---",
        "library_name: peft",
        *([f"base_model: {json.dumps(base)}"] if base else []),
        *("tags:", "- lora", "- share_registry", "---"),
        *("<!-- written by share_registry -->", "", f"# {version['ref']}", ""),
        f"A LoRA adapter{whose}, exported by share_registry in the native profile.",
        *("", f"- version: `{version['ref']}`"),
        f"- commit: c{version['number']} `{version['id']}` of {version['time']}",
        f"- relative error of scaled dW against the committed adapter: {error}",
        "",
    ]
    return "\n".join(lines).encode()


# The digest of an export (spec EXP-05)
def digest_of(files):
    listed = [
        {"name": name, "sha256": sha256(content).hexdigest()}
        for name, content in sorted(files.items())
    ]
    return sha256(canonical(listed).encode()).hexdigest()


def is_object(content):
    try:
        return type(json.loads(content.decode())) is dict
    except (ValueError, RecursionError):
        return False
