"""Compare the shapes of this folder with vLLM's wheel, and ask our resolver through its own code.

    python -m pip download vllm==0.33.0 --no-deps -d DIRECTORY   (336 MB; needs msgspec too)
    python -m tests.serving.check_vllm DIRECTORY/vllm-0.33.0-*.whl

Run it when a new release of vLLM is named in docs/serving.md. Neither vLLM nor a GPU is needed: of
the wheel, the modules that know adapters are loaded, with empty ones in place of what they import.
"""

import asyncio
import importlib
import importlib.util
import inspect
import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import share_registry as sr
from tests.cli.tiny import write_adapter
from tests.serving.conftest import SHAPES, unpack

SERVING: Final = "vllm/entrypoints/openai/models/serving.py"
FILESYSTEM: Final = "vllm/plugins/lora_resolvers/filesystem_resolver.py"
MODEL: Final = "/models/tiny"
EMPTY: Final = {
    "vllm.config": ("ModelConfig",),
    "vllm.engine.protocol": ("EngineClient",),
    "vllm.entrypoints.openai.models.protocol": ("BaseModelPath", "LoRAModulePath"),
    "vllm.entrypoints.serve": ("create_error_response",),
    "vllm.entrypoints.serve.engine.protocol": (
        *("ErrorResponse", "ModelCard", "ModelList", "ModelPermission"),
    ),
    "vllm.entrypoints.serve.lora.protocol": ("LoadLoRAAdapterRequest", "UnloadLoRAAdapterRequest"),
    "vllm.envs": ("VLLM_LORA_RESOLVER_CACHE_DIR",),
    "vllm.exceptions": ("LoRAAdapterNotFoundError",),
    "vllm.utils.counter": ("AtomicCounter",),
}
"""What the module of the API server imports and a resolver never sees."""


def main() -> None:
    """Compare, then ask."""
    wheel = Path(sys.argv[1])
    recorded = _shapes(SHAPES)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        unpack(wheel, root)
        with zipfile.ZipFile(wheel) as archive:
            (root / "serving.py").write_bytes(archive.read(SERVING))
            (root / "filesystem.py").write_bytes(archive.read(FILESYSTEM))
        real = _shapes(root)
        assert recorded == real, f"{json.dumps(real, indent=1)} is not as recorded"
        sys.path.insert(0, str(root))
        asyncio.run(_ask(root))
    sys.stdout.write(f"{wheel.name}: as recorded, and served\n")


def _shapes(root: Path) -> dict[str, Any]:
    sys.path.insert(0, str(root))
    try:
        request = importlib.import_module("vllm.lora.request").LoRARequest
        resolver = importlib.import_module("vllm.lora.resolver")
        example = request(lora_name="a", lora_int_id=1, lora_path="/a")
        registry = type(resolver.LoRAResolverRegistry)
        return {
            "request": [
                (name, repr(getattr(example, name)))
                for name in inspect.signature(request).parameters
            ],
            "resolve_lora": list(inspect.signature(resolver.LoRAResolver.resolve_lora).parameters),
            "is_async": inspect.iscoroutinefunction(resolver.LoRAResolver.resolve_lora),
            "registry": {
                name: list(inspect.signature(getattr(registry, name)).parameters)
                for name in ("get_supported_resolvers", "register_resolver", "get_resolver")
            },
        }
    finally:
        sys.path.remove(str(root))
        _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]


async def _ask(root: Path) -> None:
    """Ask for names as the API server does, on its own code."""
    os.environ["SHARE_REGISTRY_URI"] = str(root / "registry")
    os.environ["SHARE_REGISTRY_VLLM_CACHE"] = str(root / "cache")
    with sr.Registry.open(root / "registry") as registry:
        for seed in (1, 2):
            registry.commit(write_adapter(root / f"in{seed}", seed=seed), task="cola")
        registry.set_alias("cola@v1", "prod")
        models = _models(root)
        first = await models.resolve_lora("cola@prod")
        assert "--cola--v1-" in first.lora_path
        assert (await models.resolve_lora("nothing@prod"))["status_code"] == 404
        assert (await models.resolve_lora("../../etc"))["status_code"] == 404
        registry.set_alias("cola@v2", "prod")
        # a name that was resolved stays bound: the alias has moved, the server has not
        assert (await models.resolve_lora("cola@prod")).lora_path == first.lora_path
        # what is asked for by its version is another name
        second = await models.resolve_lora("cola@v2")
        assert "--cola--v2-" in second.lora_path
        moved = SimpleNamespace(
            lora_name="cola@prod",
            lora_path=second.lora_path,
            load_inplace=True,
            is_3d_lora_weight=False,
        )
        await models.load_lora_adapter(moved)
        assert (await models.resolve_lora("cola@prod")).lora_path == second.lora_path
        (entry,) = registry.sync(root / "serve").tasks
        assert Path((await models.resolve_lora(entry.name)).lora_path).name == entry.name
        # vLLM's own resolver reads the directory of a sync that names the server's model
        own = _module(root / "filesystem.py").FilesystemResolver(str(root / "serve"))
        assert await own.resolve_lora(MODEL, entry.name) is None
        (entry,) = registry.sync(root / "serve", base_model=MODEL).tasks
        assert entry.name is not None
        served = await own.resolve_lora(MODEL, entry.name)
        assert served.lora_path == str(root / "serve" / entry.name)


def _models(root: Path) -> Any:
    """Return vLLM's own object for the models of a server, over an engine that loads nothing."""
    for name, members in EMPTY.items():
        module = ModuleType(name)
        for member in members:
            setattr(module, member, type(member, (), {}))
        sys.modules[name] = module
    errors: Any = sys.modules["vllm.entrypoints.serve"]
    errors.create_error_response = lambda **members: members
    counter: Any = sys.modules["vllm.utils.counter"]
    counter.AtomicCounter = _Counter
    importlib.import_module("share_registry.serving.vllm_plugin").register()
    serving = _module(root / "serving.py")

    async def add_lora(request: Any) -> None:
        assert (Path(request.lora_path) / "adapter_config.json").is_file()

    engine = SimpleNamespace(
        model_config=SimpleNamespace(model=MODEL),
        renderer=None,
        input_processor=None,
        add_lora=add_lora,
    )
    return serving.OpenAIServingModels(engine, [SimpleNamespace(name="tiny", model_path="tiny")])


def _module(path: Path) -> Any:
    """Load one of vLLM's modules from a file."""
    spec = importlib.util.spec_from_file_location(f"served_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Counter:
    def __init__(self, start: int) -> None:
        self._last = start

    def inc(self, by: int) -> int:
        self._last += by
        return self._last


if __name__ == "__main__":
    main()
