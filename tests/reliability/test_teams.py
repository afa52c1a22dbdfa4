"""Teams: writers on several machines, a catalog in PostgreSQL, a store in a bucket.

Each writer is a process with a cache of its own, as on another machine.
"""

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.names import TaskName
from tests.cli.tiny import SPACE
from tests.reliability.team_writer import SHARED
from tests.store.object_servers import BUCKET, environment, variables

WRITERS = 4


def race(folder: Path, server: str, registry: dict[str, str], count: int) -> list[list[str]]:
    """Let writers commit at the same time; return the keys that each was acknowledged."""
    writers = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.reliability.team_writer",
                str(folder),
                str(writer),
                str(count),
            ],
            env=environment(server)
            | registry
            | {"SHARE_REGISTRY_CACHE": str(folder / f"cache-{writer}"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for writer in range(WRITERS)
    ]
    outputs = [writer.communicate(timeout=1200)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * WRITERS
    return [output.split() for output in outputs]


def require_all(registry: sr.Registry, acknowledged: list[list[str]], count: int) -> None:
    """Check that every commit that was acknowledged is there once, and all is sound."""
    keys = [f"{writer}-{number}" for writer in range(WRITERS) for number in range(count)]
    assert sorted(key for of_writer in acknowledged for key in of_writer) == sorted(keys)
    log = registry.log(SPACE, kind="absorb", limit=10_000)
    assert sorted(commit.key for commit in log) == sorted(keys), "each is there once"
    numbers = [commit.number for commit in registry.log(SPACE, limit=10_000)]
    assert numbers == [*range(len(numbers), 0, -1)]
    versions = {task.name: task.version for task in registry.tasks()}
    assert versions[TaskName(SHARED)] == WRITERS * (count // 2)
    assert registry.verify(level="deep").ok


def team_of(
    monkeypatch: pytest.MonkeyPatch, folder: Path, server: str, registry: dict[str, str]
) -> None:
    """Make this process one more member, with a cache of its own, and create the registry."""
    for name, value in (variables(server) | registry).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SHARE_REGISTRY_CACHE", str(folder / "cache"))
    sr.Registry.open(mode="c").close()


def test_writers_on_postgresql_and_a_bucket_lose_nothing(
    moto_url: str, postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = {
        "SHARE_REGISTRY_URI": postgresql_url,
        "SHARE_REGISTRY_STORE": f"s3://{BUCKET}/{uuid.uuid4().hex}",
    }
    team_of(monkeypatch, tmp_path, moto_url, team)
    acknowledged = race(tmp_path, moto_url, team, 4)
    with sr.Registry.open(mode="r") as registry:
        require_all(registry, acknowledged, 4)


@pytest.mark.soak
@pytest.mark.parametrize("server", ["moto_url", "seaweedfs_url"])
@pytest.mark.parametrize("has_server", [True, False], ids=["one catalog", "a catalog each"])
def test_writers_lose_nothing_at_length(
    server: str,
    has_server: bool,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    team = {"SHARE_REGISTRY_URI": place}
    if has_server:
        url = str(request.getfixturevalue("postgresql_url"))
        team = {"SHARE_REGISTRY_URI": url, "SHARE_REGISTRY_STORE": place}
    url = str(request.getfixturevalue(server))
    team_of(monkeypatch, tmp_path, url, team)
    acknowledged = race(tmp_path, url, team, 50)
    with sr.Registry.open(mode="w") as registry:
        require_all(registry, acknowledged, 50)
        assert registry.rebuild() > WRITERS * 50
        require_all(registry, acknowledged, 50)
