"""The resolver, asked as vLLM asks it."""

import asyncio
import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import pytest
from typing_extensions import override

import share_registry as sr
from benchmarks.many import mix
from share_registry.catalog.queries.version_lookups import all_versions
from share_registry.format.canonical import sha256
from share_registry.outside.files import Outside
from share_registry.registry.delivery.served_directory import digest_on_disk
from share_registry.serving.adapter_cache import AdapterCache
from tests.cli.tiny import SPACE, write_adapter
from tests.registry.plain import files

MODEL = "/models/tiny"
MANY, FEW, THREADS = 200, 20, 32


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of cola, the first behind prod, one of sst2, and many mixtures of them."""
    root = tmp_path_factory.mktemp("committed")
    with sr.Registry.open(root / "registry") as opened:
        for seed, task in enumerate(("cola", "sst2", "cola")):
            opened.commit(write_adapter(root / f"in{seed}", seed=seed), task=task)
        opened.set_alias("cola@v1", "prod")
        mix(opened, SPACE, count=MANY)
    return root / "registry"


@pytest.fixture
def place(committed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(committed, tmp_path / "registry"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def server(
    vllm: None, place: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """The environment of a server with the plugin."""
    monkeypatch.setenv("SHARE_REGISTRY_URI", str(place))
    monkeypatch.setenv("SHARE_REGISTRY_VLLM_CACHE", str(cache))
    return monkeypatch


def resolver() -> Any:
    """Load the plugins as vLLM does, and return ours."""
    group = "vllm.general_plugins"
    declared = next(
        line.split("=")[1].strip().strip('"')
        for line in Path("pyproject.toml").read_text().split(f'"{group}"]')[1].splitlines()
        if line.startswith("share_registry")
    )
    EntryPoint("share_registry", declared, group).load()()
    registry = importlib.import_module("vllm.lora.resolver").LoRAResolverRegistry
    return registry.get_resolver("share_registry")


def resolve(name: str, asked: Any = None) -> Any:
    return asyncio.run((asked or resolver()).resolve_lora(MODEL, name))


def sound(path: Path) -> bool:
    """Tell whether a directory has the bytes that its name says."""
    digest = digest_on_disk(path, Outside())
    return digest is not None and digest[:12] == path.name[-12:]


def tree_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["cola@v1", "cola@prod", f"{SPACE}/cola@v1", "cola@latest~1"])
def test_a_reference_is_served_as_export_writes_it(
    server: pytest.MonkeyPatch, place: Path, cache: Path, tmp_path: Path, name: str
) -> None:
    request = resolve(name)
    assert (request.lora_name, request.lora_int_id) == (name, 1)
    path = Path(request.lora_path)
    assert path.is_absolute()
    assert path.parent == cache
    with sr.Registry.open(place) as registry:
        assert files(path) == files(registry.export("cola@v1", tmp_path / "out").path)
    assert sound(path)


def test_what_the_server_would_misread_is_no_answer(
    server: pytest.MonkeyPatch, place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_adapter(tmp_path / "activated", seed=5)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"alora_invocation_tokens": [3]}))
    with sr.Registry.open(place) as registry:
        registry.commit(folder, task="activated")
    assert resolve("activated@v1") is None
    assert "is not exported for vLLM" in caplog.text


@pytest.mark.parametrize("options", [{}, {"profile": "portable"}, {"base_model": MODEL}])
def test_the_names_of_sync_are_served(
    server: pytest.MonkeyPatch, place: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    with sr.Registry.open(place) as registry:
        (task,) = registry.sync(tmp_path / "serve", **options).tasks
    assert task.name is not None
    request = resolve(task.name)
    assert files(Path(request.lora_path)) == files(tmp_path / "serve" / task.name)
    shutil.move(place, tmp_path / "away")
    # without the registry too, once it is there
    assert resolve(task.name).lora_path == request.lora_path


@pytest.mark.parametrize(
    "name",
    [
        *("cola", "gpt-4", "", "../cola@v1", "/etc/passwd", "cola@v1/../../x", "a@b@c", "@c1"),
        *(
            "cola@v9",
            "nothing@v1",
            "other/cola@v1",
            "cola@\0",
            "cola@v1\n",
            "\udcff@v1",
            "x" * 9999,
        ),
        f"{SPACE}--cola--v1-{'0' * 12}",
        f"..--cola--v1-{'0' * 12}",
        f"{SPACE}--..--v1-{'0' * 12}",
    ],
)
def test_other_names_are_none_of_ours_and_touch_no_file(
    server: pytest.MonkeyPatch, cache: Path, name: str
) -> None:
    assert resolve(name) is None
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_an_alias_that_moved_is_followed_when_it_is_asked_for_again(
    server: pytest.MonkeyPatch, place: Path
) -> None:
    ours = resolver()
    before = resolve("cola@prod", ours)
    with sr.Registry.open(place) as registry:
        registry.set_alias("cola@v2", "prod")
    after = resolve("cola@prod", ours)
    assert "--cola--v1-" in before.lora_path
    assert "--cola--v2-" in after.lora_path
    assert sound(Path(before.lora_path))


def test_the_config_is_relabelled_on_request(server: pytest.MonkeyPatch) -> None:
    server.setenv("SHARE_REGISTRY_VLLM_RELABEL", "1")
    path = Path(resolve("cola@v1").lora_path)
    config = json.loads((path / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == MODEL
    assert sound(path)


def test_a_damaged_directory_is_put_right_before_it_is_served(server: pytest.MonkeyPatch) -> None:
    ours = resolver()
    path = Path(resolve("cola@v1", ours).lora_path)
    before = files(path)
    (path / "adapter_model.safetensors").write_bytes(b"rotten")
    assert resolve("cola@v1", ours).lora_path == str(path)
    assert files(path) == before


def test_a_registry_that_cannot_be_read_is_no_answer_and_is_asked_again(
    server: pytest.MonkeyPatch, place: Path, tmp_path: Path
) -> None:
    ours = resolver()
    shutil.move(place, tmp_path / "away")
    assert resolve("cola@v1", ours) is None
    shutil.move(tmp_path / "away", place)
    assert resolve("cola@v1", ours) is not None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SHARE_REGISTRY_VLLM_CACHE", "relative"),
        ("SHARE_REGISTRY_VLLM_CACHE", "/dev/null/x"),
        ("SHARE_REGISTRY_VLLM_CACHE_GB", "much"),
        ("SHARE_REGISTRY_VLLM_KEEP_HOURS", "-1"),
        ("SHARE_REGISTRY_VLLM_KEEP_HOURS", "0"),
        ("SHARE_REGISTRY_VLLM_PROFILE", "best"),
    ],
)
def test_a_wrong_setting_is_logged_and_ends_nothing(
    server: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str, value: str
) -> None:
    server.setenv(variable, value)
    with pytest.raises(KeyError):
        resolver()
    assert "adapters of share_registry are not served" in caplog.text


def test_without_its_variable_the_plugin_does_nothing(server: pytest.MonkeyPatch) -> None:
    server.delenv("SHARE_REGISTRY_VLLM_CACHE")
    with pytest.raises(KeyError):
        resolver()


def test_the_plugin_is_registered_once(server: pytest.MonkeyPatch) -> None:
    assert resolver() is resolver()


def test_the_package_and_the_plugin_import_no_vllm_and_no_torch() -> None:
    script = (
        "import sys, share_registry.serving.vllm_plugin as plugin; plugin.register(); "
        "print([name for name in ('vllm', 'torch', 'sqlalchemy') if name in sys.modules])"
    )
    environment = {key: value for key, value in os.environ.items() if "VLLM" not in key}
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert ran.stdout == "[]\n"


def test_what_was_handed_out_is_never_removed_and_the_disk_is_bounded(
    server: pytest.MonkeyPatch, cache: Path
) -> None:
    size = tree_bytes(Path(resolve("cola@v1").lora_path))
    limit = FEW * size + size // 2
    server.setenv("SHARE_REGISTRY_VLLM_CACHE_GB", str(limit / 1e9))
    _forget()
    ours = resolver()
    names = [f"mix{number + 1}@v1" for number in range(FEW + 10)]
    requests = [resolve(name, ours) for name in names]
    served = [Path(request.lora_path) for request in requests if request is not None]
    assert FEW - 2 <= len(served) <= FEW
    assert all(map(sound, served))
    assert tree_bytes(cache) <= limit
    # and again, of those that are there
    assert resolve(names[0], ours).lora_path == str(served[0])


def test_what_nobody_holds_makes_room(server: pytest.MonkeyPatch, cache: Path) -> None:
    size = tree_bytes(Path(resolve("cola@v1").lora_path))
    server.setenv("SHARE_REGISTRY_VLLM_CACHE_GB", str(2.5 * size / 1e9))
    server.setenv("SHARE_REGISTRY_VLLM_KEEP_HOURS", "1")
    # of a server that ended two hours ago
    for mark in (cache / ".used").iterdir():
        os.utime(mark, (time.time() - 7200,) * 2)
    _forget()
    ours = resolver()
    assert all(resolve(f"mix{number}@v1", ours) for number in (1, 2))
    assert not any("--cola--" in path.name for path in cache.iterdir())
    assert resolve("mix3@v1", ours) is None


def test_a_mark_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    beats = Event()

    class Beating(Outside):
        @override
        def wait(self, seconds: float) -> None:
            if beats.is_set():
                # the thread of the first holder ends with the process
                Event().wait(60)
            beats.set()

    cache = AdapterCache(tmp_path, limit_bytes=1 << 20, keep_s=3.0, outside=Beating())
    name = f"s--t--v1-{'0' * 12}"
    cache._mark(name)
    (tmp_path / ".used" / name).unlink()
    cache._hold(name)
    assert beats.wait(30)
    for _ in range(300):
        if (tmp_path / ".used" / name).exists():
            return
        time.sleep(0.1)
    pytest.fail("what is held looks as if nobody had used it")


def test_what_is_put_aside_is_not_taken_for_what_a_killed_replica_left(tmp_path: Path) -> None:
    name = f"s--t--v1-{'0' * 12}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_bytes(b"x")

    class Starting(Outside):
        """Another replica starts, and a third is given the directory, as it is put aside."""

        @override
        def replace(self, source: Path, target: Path) -> None:
            super().replace(source, target)
            AdapterCache(tmp_path, limit_bytes=1 << 20, keep_s=0, outside=Outside())
            os.utime(tmp_path / ".used" / name)

    cache = AdapterCache(tmp_path, limit_bytes=1, keep_s=0, outside=Starting())
    cache._mark(name)
    for path in (tmp_path / name, tmp_path / ".used" / name):
        os.utime(path, (1e9, 1e9))
    assert not cache._remove(name, cache._used_s(name))
    assert (tmp_path / name / "file").read_bytes() == b"x"


def test_many_threads_that_ask_for_more_than_fits_get_no_wrong_bytes(
    server: pytest.MonkeyPatch, place: Path, cache: Path
) -> None:
    size = tree_bytes(Path(resolve("cola@v1").lora_path))
    server.setenv("SHARE_REGISTRY_VLLM_CACHE_GB", str(FEW * size / 1e9))
    # nothing is held
    server.setattr("share_registry.serving.vllm_plugin._HOUR_S", 0.0)
    _forget()
    ours = resolver()
    registry = sr.Registry.open(place)
    with registry.context.reading() as session:
        digests = {str(row.name): row.tensors_digest for row in all_versions(session)}
    moved, done, counts = threading.Event(), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.001):
            counts.append(sum(path.name[0] != "." for path in cache.iterdir()))

    def ask(number: int) -> str:
        name = f"mix{number}@v1" if number % 4 else "cola@prod"
        version = 2 if moved.is_set() else None
        if number == MANY // 2:
            registry.set_alias("cola@v2", "prod")
            moved.set()
        path = Path(asyncio.run(ours.resolve_lora(MODEL, name)).lora_path)
        task = name.partition("@")[0]
        assert path.name.startswith(f"{SPACE}--{task}--v")
        assert task != "cola" or version is None or "--v2-" in path.name
        try:
            content = (path / "adapter_model.safetensors").read_bytes()
        except FileNotFoundError:
            # nothing is kept: others needed the room
            return "gone"
        return "right" if task == "cola" or sha256(content) == digests[task] else "wrong"

    watcher = threading.Thread(target=watch)
    watcher.start()
    numbers = [*range(1, MANY + 1)]
    Random(7).shuffle(numbers)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            answers = Counter(pool.map(ask, numbers))
    finally:
        done.set()
        watcher.join()
        registry.close()
    assert answers["wrong"] == 0
    assert answers["right"] > MANY // 2
    assert max(counts) <= FEW
    assert tree_bytes(cache) <= FEW * size


def _forget() -> None:
    """Forget the resolver, as a new process would."""
    importlib.import_module("vllm.lora.resolver").LoRAResolverRegistry.resolvers.clear()
