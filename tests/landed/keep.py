"""Keep a store as this version writes it: every version after it has to read it, byte for byte.

    python -m tests.landed.keep NAME

It has adapters of every form and every kind of record and policy; beside the archive stands what its versions
export to. A store that is kept is never made again. That of 2026-11-26 has configs that PEFT cannot
read and that commits took then.
"""

import json
import sys
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import share_registry as sr
from tests.spec import adapters

KEPT: Final = Path(__file__).parent
_TIME: Final = (2026, 1, 1, 0, 0, 0)


def main() -> None:
    """Write the archive and its digests."""
    (name,) = sys.argv[1:]
    if (KEPT / f"{name}.zip").exists():
        raise SystemExit(f"{name} is kept already.")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "registry"
        with sr.Registry.open(root, checks={"accept@1": accept}) as registry:
            fill(registry, Path(place) / "adapters")
            expected = digests(registry, Path(place) / "out")
        with zipfile.ZipFile(KEPT / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for part in (
                root / "FORMAT",
                *sorted((root / "objects").rglob("*")),
                *sorted((root / "spaces").rglob("*")),
            ):
                if part.is_file():
                    archive.writestr(
                        zipfile.ZipInfo(part.relative_to(root).as_posix(), _TIME),
                        part.read_bytes(),
                        zipfile.ZIP_DEFLATED,
                    )
    (KEPT / f"{name}.json").write_text(json.dumps(expected, indent=1) + "\n")


def fill(registry: sr.Registry, folder: Path) -> None:
    """Commit adapters of every form, then everything that makes a record.

    A tag, an annotation, a policy, a joint commit, bases, refits with a budget and with loss,
    merges.
    """
    adapters.fill(registry, folder)
    registry.tag("first", "@c3", reason="kept")
    registry.annotate("plain@v2", labels={"team": "search"}, metrics={"accuracy": 0.5})
    registry.refit(max_rank=4, force=True)
    family = {
        f"joint-{number}": adapters.write(
            folder / f"joint-{number}", adapters.near(adapters.pairs(20), 20 + number, 0.02)
        )
        for number in range(4)
    }
    registry.commit_many(family)
    registry.commit(
        adapters.write(folder / "after", adapters.near(adapters.pairs(20), 30, 0.02)), task="after"
    )
    registry.merge({"plain": 0.5, "joint-0": 0.5}, task="both")
    registry.merge({"plain": 0.7, "joint-1": 0.3}, task="ties", method="ties", density=0.5)
    registry.refit(max_rank=6, budget=0.2)
    paper = registry.create_space(
        "paper", base_model="org/base", policy=sr.Policy.share(k=6, p=3, phi=1)
    )
    for number in range(3):
        paper.commit(
            adapters.write(
                folder / f"paper-{number}", adapters.near(adapters.pairs(40), 40 + number, 0.2)
            ),
            task=f"paper-{number}",
        )
    remove(registry, folder)
    restrict(registry, folder)


def restrict(registry: sr.Registry, folder: Path) -> None:
    """Bound what depends on a version, require a check, and note an export in the log."""
    space = registry.create_space(
        "careful",
        base_model="org/base",
        policy=sr.Policy(max_dependents=2, require=("accept",)),
    )
    for number in range(4):
        name = f"careful-{number}"
        space.commit(
            adapters.write(folder / name, adapters.near(adapters.pairs(50), 50 + number, 0.02)),
            task="careful",
        )
    space.export("careful@v3", folder / "exported", record=True)


def accept(request: object) -> str:
    """Pass every adapter: that the check was asked is what the log says."""
    del request
    return "no finding"


def remove(registry: sr.Registry, folder: Path) -> None:
    """Expire versions, purge tasks that others are built upon, and go on with one of them."""
    base = registry.space("base")
    base.expire(["bf16@v1", "plain@v3"], dry_run=False)
    base.expire(keep_last=2, keep_tagged=False, dry_run=False)
    for task in ("joint-0", "plain"):
        base.purge(task, dry_run=False)
    base.commit(
        adapters.write(folder / "again", adapters.near(adapters.pairs(20), 31, 0.02)), task="plain"
    )
    registry.gc(grace_days=0, dry_run=False)


def digests(registry: sr.Registry, out: Path) -> dict[str, str]:
    """Return the export digest of every version of every task that is there, by its reference."""
    digests_by_ref: dict[str, str] = {}
    for space in registry.spaces():
        for task in registry.tasks(space.name):
            for version in range(1, task.version + 1):
                # it was expired or purged
                with suppress(sr.NotFoundError):
                    exported = registry.space(space.name).export(f"{task.name}@v{version}", out)
                    digests_by_ref[exported.ref] = str(exported.digest)
    return digests_by_ref


if __name__ == "__main__":
    main()
