"""Import adapters with Ray, on one machine with two workers: the same as without it."""

import gc
import inspect
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

import share_registry as sr
from share_registry.names import Digest
from share_registry.registry.context import Context
from share_registry.registry.location import absolute_place
from share_registry.values.imports import ImportSource, ImportStatus
from tests.house.tree import ROOT
from tests.ray.orders import ORDERS, obey
from tests.registry.imported import adapters_of, statuses
from tests.registry.planted import write_planted

ray = pytest.importorskip("ray", reason="needs the extra [ray]")
from ray import cloudpickle  # noqa: E402
from ray.data.datasource import WriteResult  # noqa: E402

from share_registry import ray as ray_module  # noqa: E402
from share_registry.ray import PublishSink, RayTasks, import_adapters  # noqa: E402

pytestmark = [
    # Ray's own: of pipes and files that its processes leave, and of settings it calls itself
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:ray.data.context"),
]
COUNT: Final = 4
STORE_BYTES: Final = 100 << 20


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Ray on this machine with two processors; a directory of what its processes are to do."""
    directory = tmp_path_factory.mktemp("orders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # else Ray writes a token to the home directory
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setenv("PYTHONPATH", str(ROOT))
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={
                "env_vars": {ORDERS: str(directory)},
                "worker_process_setup_hook": obey,
            },
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield directory
        ray.shutdown()
        # what it leaves is warned of here, where that is ignored
        gc.collect()


@pytest.fixture(autouse=True)
def _no_orders(orders: Path) -> None:
    for path in orders.iterdir():
        path.unlink()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of adapters of one base model, t00 to t03."""
    directory = tmp_path_factory.mktemp("list") / "adapters"
    write_planted(directory, COUNT, modules=2, width=64)
    return directory


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> dict[str, Digest]:
    """What `import_many` makes of them."""
    with sr.Registry.open(tmp_path_factory.mktemp("plain")) as registry:
        registry.import_many(folder, workers=1)
        return adapters_of(registry)


def test_the_result_is_that_of_import_many(
    tmp_path: Path, folder: Path, expected: dict[str, Digest]
) -> None:
    with sr.Registry.open(tmp_path / "registry") as registry:
        said: list[tuple[str, int, int]] = []
        report = import_adapters(
            registry, folder, workers=2, progress=lambda *each: said.append(each)
        )
        assert (report.committed, report.refused, report.workers) == (COUNT, 0, 2)
        assert adapters_of(registry) == expected
        assert registry.verify("deep").ok
        assert said[-1] == ("importing", COUNT, COUNT)


def test_a_worker_killed_in_the_middle_loses_nothing(
    tmp_path: Path, postgresql_url: str, orders: Path, folder: Path, expected: dict[str, Digest]
) -> None:
    """With the catalog in PostgreSQL, as several machines need it."""
    # read first, then prepared beside t03
    (orders / "t02-2").touch()
    (orders / "t01-1").touch()
    with sr.Registry.open(postgresql_url, store=tmp_path / "store") as registry:
        report = import_adapters(registry, folder, workers=2)
        assert statuses(report) == ["committed"] * COUNT
        assert adapters_of(registry) == expected
    opened = {path.stem: path.stat().st_size for path in orders.glob("*.opened")}
    assert opened == {"t00": 2, "t01": 3, "t02": 3, "t03": 2}


def test_an_adapter_that_ends_every_process_is_refused_alone(
    tmp_path: Path, orders: Path, folder: Path
) -> None:
    for times in range(1, 10):
        (orders / f"t01-{times}").touch()
    with sr.Registry.open(tmp_path / "registry") as registry:
        report = import_adapters(registry, folder, workers=2)
        assert statuses(report) == ["committed", "refused", *["committed"] * (COUNT - 2)]
        (refused,) = report.of(ImportStatus.REFUSED)
        assert "ended 3 times" in refused.reason


def test_adapters_in_memory_and_paths_of_this_directory_travel(
    tmp_path: Path, folder: Path, expected: dict[str, Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(path.name for path in folder.iterdir())
    with sr.Registry.open(tmp_path / "other") as registry:
        registry.commit(folder / names[0])
        first = registry.checkout(names[0])
    monkeypatch.chdir(folder)
    catalog, store = (os.path.relpath(tmp_path / name) for name in ("catalog.sqlite", "store"))
    with sr.Registry.open(f"sqlite:///{catalog}", store=store, space="mine") as registry:
        registry.create_space("mine", base_model="acme/tiny")
        sources = [ImportSource(adapter=first, task="first"), *names, "gone"]
        report = import_adapters(registry, sources, workers=2, message="first import")
        assert statuses(report) == [*["committed"] * (COUNT + 1), "refused"]
        assert [outcome.source for outcome in report.outcomes] == ["first", *names, "gone"]
        assert {registry.show(name).message for name in names} == {"first import"}
        assert {ref.partition("/")[0] for ref in adapters_of(registry)} == {"mine"}
        again = import_adapters(registry, sources, workers=1)
        assert (again.committed, again.unchanged, again.refused) == (0, COUNT + 1, 1)


def test_a_dry_run_writes_nothing_and_stopping_raises(tmp_path: Path, folder: Path) -> None:
    with sr.Registry.open(tmp_path / "registry") as registry:
        report = import_adapters(registry, [folder], dry_run=True)
        assert (report.committed, report.commits, report.workers) == (COUNT, 0, 2)
        with pytest.raises(sr.NotFoundError, match="gone"):
            import_adapters(registry, [folder, tmp_path / "gone"], on_error="stop")
        assert registry.spaces() == []


def _late_first(context: Context, number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number


def _break(context: Context) -> None:
    raise ZeroDivisionError


def _tasks(registry: sr.Registry, **changes: Any) -> RayTasks:
    context = registry.context
    assert context.place is not None
    place = absolute_place(context.place, context.outside)
    return RayTasks(replace(place, **changes), 2, device="cpu", outside=context.outside)


def test_results_are_in_the_order_of_the_calls(registry: sr.Registry) -> None:
    tasks = _tasks(registry)
    # both processes are there before it counts
    assert list(tasks.run(_late_first, [(0, 1.0), (1, 1.0)])) == [0, 1]
    assert list(tasks.run(_late_first, [(0, 3.0), (1, 0.0), (2, 0.0)])) == [0, 1, 2]
    assert list(tasks.run(_late_first, [])) == []


def test_a_sink_publishes_all_results_at_once_in_the_order_of_the_calls() -> None:
    published: list[list[Any]] = []
    sink = PublishSink(lambda results: published.append(list(results)))
    blocks = [ray_module._table(number, "result", f"r{number}") for number in (2, 0, 1)]
    copy = cloudpickle.loads(cloudpickle.dumps(sink))
    returns = [copy.write([block], None) for block in blocks]
    assert published == []
    sink.on_write_complete(WriteResult(num_rows=3, size_bytes=0, write_returns=returns))
    assert published == [["r0", "r1", "r2"]]
    with pytest.raises(sr.RefusedError, match="only the process that imports"):
        copy.on_write_complete(WriteResult(num_rows=0, size_bytes=0, write_returns=[]))


def test_an_unexpected_error_is_a_result(registry: sr.Registry) -> None:
    (result,) = _tasks(registry).run(_break, [()])
    assert isinstance(result, sr.RefusedError)
    assert "ZeroDivisionError" in result.message


def test_a_machine_that_does_not_see_the_registry_ends_the_import(
    registry: sr.Registry, tmp_path: Path
) -> None:
    tasks = _tasks(registry, store=tmp_path / "elsewhere")
    with pytest.raises(sr.StoreError, match=r"cannot open the registry: .*elsewhere"):
        list(tasks.run(_late_first, [(0, 0.0)]))


def test_a_registry_in_memory_is_refused(folder: Path) -> None:
    with (
        sr.Registry.open("memory://") as registry,
        pytest.raises(sr.RefusedError, match="in the memory of this process"),
    ):
        import_adapters(registry, folder)


def test_arguments_are_those_of_import_many_and_checked_like_them(
    registry: sr.Registry, folder: Path
) -> None:
    here, there = (inspect.signature(each) for each in (import_adapters, registry.import_many))
    assert list(here.parameters.values())[1:] == list(there.parameters.values())
    with pytest.raises(sr.InvalidInputError, match="workers"):
        import_adapters(registry, folder, workers=0)
    with pytest.raises(sr.InvalidInputError, match="a Registry"):
        import_adapters(folder)  # type: ignore[arg-type]
    with pytest.raises(sr.InvalidInputError, match="nothing to import"):
        import_adapters(registry)


def test_a_gpu_is_asked_for_where_the_registry_computes_on_one(registry: sr.Registry) -> None:
    context = registry.context
    assert context.place is not None
    tasks = RayTasks(context.place, None, device="cuda:1", outside=context.outside)
    assert (tasks._device, tasks._resources, tasks.count) == ("cuda", {"num_gpus": 1}, 1)


def test_without_ray_it_is_said_what_to_install() -> None:
    script = (
        "import sys\nsys.modules['ray'] = None\nimport share_registry as sr\n"
        "try:\n    sr.ray\nexcept sr.RefusedError as error:\n    print(error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout == "pip install -U 'share-registry[ray]'\n", done.stderr
