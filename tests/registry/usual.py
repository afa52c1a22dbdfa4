"""Values that calls expect, by the names of their parameters.

They are made anew at every use, in the world that they are used in.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

import share_registry as sr
from share_registry.format.canonical import sha256
from share_registry.store.blobs import MemoryStore
from share_registry.values.imports import ImportStatus
from tests.registry.surface import (
    SPACE,
    Door,
    World,
    live_model,
    plain_model,
    share_config,
    share_model,
)

REF: Final = ("t0", "t0@v1", "t1@latest", "tiny/t2", "t0@prod", "t0~1", "@c2", "nothing", "t0@v9")
TEXT: Final = ("", "why", "é")
FLAG: Final = (True, False)

Pool = Mapping[str, Callable[[World], Any]]


def _plain(*values: Any) -> Pool:
    return {repr(value): partial(_itself, value) for value in values}


def _itself(value: Any, _: World) -> Any:
    return value


ADAPTERS: Final[Pool] = {
    "a directory": lambda world: world.adapters / "t1",
    "a text": lambda world: str(world.adapters / "t4"),
    "an adapter": lambda world: world.space.checkout("t0"),
    "a model": lambda _: live_model(),
    "a model in a subspace": share_model,
    "a plain model": lambda _: plain_model(),
    "a file": lambda world: world.adapters / "t1" / "adapter_model.safetensors",
    "a reference": lambda _: "t0",
    "many": lambda world: world.adapters,
}
REFERENCES: Final[Pool] = {
    **_plain(*REF),
    "a commit": lambda world: world.space.show("t0@v1"),
    "a resolved reference": lambda world: world.space.resolve("t1"),
}
NEW: Final[Pool] = {"new": lambda world: world.fresh("new"), **_plain("t0", "t1", "tiny/t2")}
PLACES: Final[Pool] = {
    "new": lambda world: world.folder(),
    "a text": lambda world: str(world.folder()),
    "there": lambda world: world.adapters / "t0",
}
PLOTS: Final[Pool] = {
    "None": lambda _: None,
    "svg": lambda world: world.root / f"{world.fresh('plot')}.svg",
    "no picture": lambda world: str(world.root / "plot.txt"),
}
LABELS: Final = _plain({"team": "a"}, {}, {"team": "*"}, {"x": "1"}, None)
METRICS: Final = _plain({"acc": 0.5}, {}, {"f1": 1, "acc": 0.25}, None)
MODELS: Final[Pool] = {
    "a model": lambda _: live_model(),
    "a plain model": lambda _: plain_model(),
}
BUFFERS: Final[Pool] = {
    "None": lambda _: None,
    "buffers": lambda world: world.materializer.buffers(),
}
MOMENTS: Final = _plain(2, "c3", "release", "2099-01-01", date(2099, 1, 1), datetime.now(UTC), None)
ACTIVATIONS: Final = {f"layers.{n}.proj": torch.arange(36.0).reshape(3, 12) + n for n in range(2)}
# What a parameter is right to be: by door and name, by method and name, or by name alone
RIGHT: Final[Mapping[str, Pool]] = {
    "a": REFERENCES,
    "accept_loss": _plain(*FLAG, "tiny/@c1", "@c0"),
    "action": _plain(None, "absorb", "alias"),
    "actor": _plain(None, "ada"),
    "adapter": ADAPTERS,
    "adapter_name": _plain(None, "default", "other"),
    "activations": {
        "of both modules": lambda _: ACTIVATIONS,
        "one vector of one": lambda _: {"layers.0.proj": torch.arange(1.0, 13.0)},
        "none in common": lambda _: {"layers.7.proj": torch.ones(12)},
    },
    "adapters": {
        "two": lambda world: {"t1": world.adapters / "t4", world.fresh("n"): world.adapters / "t2"},
        "none": lambda _: {},
        "one in memory": lambda world: {"t1": world.space.checkout("t0")},
    },
    "after": {**_plain(None, "t0"), "a task": lambda world: world.space.tasks()[0]},
    "alias": _plain("prod", "staging", "nothing"),
    "all_versions": _plain(*FLAG),
    "allow_base_mismatch": _plain(*FLAG),
    "allow_duplicate": _plain(*FLAG),
    "allow_loss": _plain(*FLAG),
    "arguments": _plain(),
    "at": MOMENTS,
    "author": _plain(None, "", "ada", "bob"),
    "auto_mapping": _plain(None),
    "b": REFERENCES,
    "base_labels": _plain((), ["acme/other"], "acme/one"),
    "base_config": _plain(None),
    "base_model": _plain(None, "acme/tiny", "acme/big"),
    "base_model_name_or_path": _plain(None, "acme/tiny"),
    "base_revision": _plain(None, "a" * 40),
    "basis": {"None": lambda _: None, "digest": lambda world: world.space.basis().digest},
    "before": {**_plain(None, 3, "c2"), "a commit": lambda world: world.space.log()[1]},
    "budget": _plain(None, 0, 0.05, 0.5),
    "budgets": _plain((0.1,), [0.05, 0.3]),
    "checks": {
        "None": lambda _: None,
        "a command": lambda _: {"scan@1": ["true"]},
        "a function": lambda _: {"scan": lambda _: None},
    },
    "content": _plain(b"content"),
    "count": _plain(0, 5),
    "density": _plain(None, 0.5, 1.0),
    "derived_from": {
        **_plain((), "t0", ["t1@v1", "t2"]),
        "one": lambda world: world.space.show("t0"),
    },
    "device": _plain("cpu", torch.device("cpu")),
    "digest": {
        "of the content": lambda _: sha256(b"content"),
        "of a basis": lambda world: world.space.basis().digest,
    },
    "directory": PLACES,
    "dropout": _plain(0.0, 0.1),
    "digests": _plain("0" * 64, ["f" * 64], []),
    "dry_run": _plain(True, False, False),
    "dtype": _plain(None, "float32", torch.bfloat16),
    "Registry.export.dtype": _plain(None),
    "Buffers.take.dtype": _plain(torch.float32),
    "energy": _plain(None, 0.6),
    "exact": _plain(*FLAG),
    "examples": {
        "two": lambda _: [ACTIVATIONS, {name: x.flip(1) for name, x in ACTIVATIONS.items()}],
        "one": lambda _: [ACTIVATIONS],
    },
    "exclude_modules": _plain(None, ["x"], "x"),
    "exist_ok": _plain(*FLAG),
    "format": _plain(None, "peft"),
    "expires": _plain(None, "30d", timedelta(hours=1)),
    "expected": _plain(None, 1, 2, sr.ABSENT),
    "spaces.expected": _plain((), [SPACE]),
    "extra_directions": _plain(None, 0, 1),
    "fan_in_fan_out": _plain(*FLAG),
    "force": _plain(*FLAG),
    "graph": _plain(*FLAG),
    "from_": {
        "there": lambda world: world.root / "registry",
        "a store": lambda world: world.local_store(),
    },
    "from_file": {"None": lambda _: None, "a list": lambda world: _list(world)},
    "idempotency_key": {**_plain(None), "new": lambda world: world.fresh("key"), **_plain("key1")},
    "identity": _plain(None),
    "issuer": _plain(None),
    "key": {"None": lambda _: None, "a public key": lambda world: world.root / "key.pub"},
    "inputs": _plain(),
    "inference_mode": _plain(*FLAG),
    "is_derived": _plain(*FLAG),
    "init": _plain("noise", "task:t0", "nearest"),
    "init_scale": _plain(0.01),
    "k": _plain(None, 4),
    "RoutingIndex.route.k": _plain(1, 3, 50),
    "share.k": _plain(4),
    "verify_export.directory": {
        "exported": lambda world: world.space.export("t0", world.folder()).path,
        "signed": lambda world: (
            world.space.export("t0", world.folder(), sign=world.root / "key.pem").path
        ),
    },
    "signature": {
        "None": lambda _: None,
        "signed": lambda world: (
            world.space.export("t0", world.root / "signed", sign=world.root / "key.pem").signature
        ),
        "text": lambda world: world.space.checkpoint(sign=world.root / "key.pem").signature,
    },
    "file": {
        "new": lambda world: world.root / world.fresh("head"),
        "saved": lambda world: world.space.checkpoint().save(world.root / "head"),
    },
    "ReportPage.save.file": {
        "new": lambda world: world.root / world.fresh("report"),
        "saved": lambda world: world.space.report("t0").save(world.root / "report.html"),
        "no report": lambda world: world.adapters / "t1" / "adapter_config.json",
    },
    "text": {"a checkpoint": lambda world: world.space.checkpoint().text, **_plain("", "0")},
    "keep_days": _plain(0.0, 30, 0.5),
    "keep_last": _plain(0, 1, 5),
    "keep_original": _plain(None, True, False),
    "keep_tagged": _plain(*FLAG),
    "Policy.keep_original": _plain(*FLAG),
    "kind": _plain(None, "absorb", "nothing"),
    "labels": LABELS,
    "layers_pattern": _plain(None, "layers"),
    "layers_to_transform": _plain(None, 0, [1]),
    "level": _plain("quick", "data", "deep"),
    "grace_days": _plain(0.0, 7.0, 7),
    "limit": _plain(None, 1, 50),
    "head": _plain(None),
    "heads": _plain({}),
    "iterate.limit": _plain(2, 500),
    "similar.limit": _plain(1, 5),
    "get.limit": _plain(1 << 20, 10),
    "compare": _plain(*FLAG),
    "create": _plain(*FLAG),
    "location": {
        "there": lambda world: world.root / "registry",
        "new": lambda world: world.folder(),
        **_plain("memory://"),
    },
    # another machine, which is seen elsewhere
    "upload.location": _plain("hf://ann", "hf://ann/cola@x@y", "elsewhere"),
    "upload.expected": _plain(None, "0" * 40, "main"),
    "max_dependents": _plain(None, 3),
    "max_rank": _plain(None, 2, 4),
    "memory_limit": _plain(None, 1 << 20),
    "message": _plain(*TEXT),
    "method": _plain("linear", "ties", "dare"),
    "iterate.method": {
        "log": lambda world: world.registry.log,
        "tasks": lambda world: world.space.tasks,
        "show": lambda world: world.space.show,
    },
    "metric": _plain(None, "acc"),
    "metrics": METRICS,
    "mode": _plain("r", "w", "c"),
    "model": MODELS,
    "modules": _plain(None, ".*", "layers.0.proj", "nothing"),
    "modules_to_save": _plain(None, []),
    "name": _plain(None, "out", "default"),
    "set_aside.name": _plain(f"objects/00/{'0' * 62}", f"spaces/{SPACE}/log/{99999:020}.json"),
    "space.name": _plain(SPACE, "other"),
    "create_space.name": NEW,
    "tag.name": {"new": lambda world: world.fresh("tag"), **_plain("release")},
    "tasks.name": _plain(None, "t*"),
    "new": NEW,
    "number": _plain(1, 99),
    "numbers": _plain([1], [99, 2]),
    "on_error": _plain("skip", "stop"),
    "options": _plain(),
    "out": BUFFERS,
    "overwrite": _plain(*FLAG),
    "p": _plain(None, 2),
    "parents": _plain({"t0": 0.5, "t1": 0.5}, {"t0@v1": 1}, {"t0": -1.0, "t2": 2.0}),
    "path": PLOTS,
    "RoutingIndex.load.path": {
        "saved": lambda world: world.space.routing_index().save(world.folder()),
        "no index": lambda world: world.adapters / "t1" / "adapter_model.safetensors",
        "new": lambda world: world.folder(),
    },
    "RoutingIndex.save.path": PLACES,
    "peft_type": _plain(None),
    "peft_version": _plain(None),
    "phi": _plain(0, 2),
    "place": _plain("20260101T000000Z-1", "1"),
    "policy": _plain(sr.Policy(), sr.Policy(budget=0), sr.Policy.share(k=4, p=2)),
    "create_space.policy": _plain(None, sr.Policy(budget=0.1)),
    "prepared": {
        "one": lambda world: world.space.prepare(world.adapters / "t4"),
        "two": lambda world: [
            world.space.prepare(world.adapters / "t1", task=world.fresh("p")),
            world.space.prepare(world.adapters / "t4", task=world.fresh("n")),
        ],
        "none": lambda _: [],
    },
    "pretrained_model_name_or_path": {"saved": lambda world: _saved(world)},
    "profile": _plain(None, "native", "portable"),
    "private": _plain(*FLAG),
    "progress": _plain(None, lambda *_: None),
    "prune": _plain(*FLAG),
    "pseudo_rank": _plain(None, 2),
    "raise_on_damage": _plain(*FLAG),
    "reason": _plain(*TEXT),
    "record": _plain(*FLAG),
    "ref": REFERENCES,
    "references": _plain(*FLAG),
    "refit": _plain(*FLAG),
    "refs": {**REFERENCES, **_plain(["t0", "t1"], ("t2",))},
    "routing_index.alias": _plain(None, "prod"),
    "routing_index.refs": {**REFERENCES, **_plain(None, ["t0", "t1"], [])},
    "registry": {
        "registry": lambda world: world.registry,
        "space": lambda world: world.space,
    },
    "ShareConfig.registry": {
        "registry": lambda world: world.registry,
        "place": lambda world: str(world.root / "registry"),
        **_plain(None),
    },
    "remove": _plain((), ["team"], "acc"),
    "require": {"none": lambda _: (), "[one": lambda _: ["scan"]},
    "revision": _plain(None),
    "root": PLACES,
    "seed": _plain(None, 0, 5),
    "shard": _plain(None, "1/1", "2/3"),
    "sign": {"None": lambda _: None, "a key": lambda world: world.root / "key.pem"},
    "subset": _plain(None, "100%", "12.5%"),
    "to": {
        "new": lambda world: world.folder(),
        "a copy": lambda world: _copy(world),
        "a store": lambda world: world.local_store(),
    },
    "turn": _plain(None, 0, 7),
    "since": _plain(None, "2026-01-01", date(2020, 1, 1)),
    "source_time": MOMENTS,
    "pull.from_": {
        "there": lambda world: world.root / "registry",
        "a copy": lambda world: _copy(world),
    },
    "sources": {
        "one": lambda world: world.adapters / "t1",
        "(two": lambda world: (world.adapters / "t2", world.adapters / "t4"),
        "[a source": lambda world: [
            sr.ImportSource(adapter=world.adapters / "t4", task=world.fresh("n"), message="why")
        ],
        "[in memory": lambda world: [world.space.checkout("t0")],
        "none": lambda _: (),
    },
    "status": _plain(*ImportStatus),
    "sort": _plain(None, "-acc", "bytes"),
    "space": _plain(None, SPACE, "other"),
    "started_from": _plain(None),
    "store": _plain(None),
    "open.store": {
        "None": lambda _: None,
        "memory": lambda _: MemoryStore("5b6b0bd9-6f6b-4f0c-8a2f-3d1d6a0c8a11"),
        "there": lambda world: world.root / "registry",
    },
    "put_bytes.store": {"memory": lambda _: MemoryStore("5b6b0bd9-6f6b-4f0c-8a2f-3d1d6a0c8a11")},
    "subfolder": _plain(None),
    "subject": {
        **ADAPTERS,
        "registry": lambda world: world.registry,
        "a mapping": lambda world: {"x": world.adapters / "t1", "y": world.space.checkout("t0")},
        "a list": lambda world: [world.adapters / "t0", world.adapters / "t1"],
    },
    "target_modules": _plain(None, ["layers.0.proj"], "layers.1.proj"),
    "target": _plain(None, "vllm"),
    "task": {**_plain(None, "t0", "t2"), "new": lambda world: world.fresh("task")},
    "task_type": _plain(None),
    "until": MOMENTS,
    "weighting": _plain("unit", "energy"),
    # several begin processes, which is seen elsewhere
    "workers": _plain(1),
    "where": _plain((), "acc>0.1", ["acc", "error<1"]),
}


def _saved(world: World) -> Path:
    folder = world.folder()
    share_config(world).save_pretrained(folder)
    return folder


def _copy(world: World) -> str:
    folder = world.folder()
    sr.clone(world.root / "registry", folder)
    return str(folder)


def _list(world: World) -> Path:
    path = world.root / f"{world.fresh('list')}.csv"
    path.write_text("source,label.team\nadapters/t1,a\nadapters/t4,b\n")
    return path


def right_values(door: Door, name: str) -> Pool:
    """Return what a parameter of a call is right to be."""
    method = door.name.rpartition(".")[2]
    keys = (f"{door.name}.{name}", f"{method}.{name}", name)
    return next(RIGHT[key] for key in keys if key in RIGHT)
