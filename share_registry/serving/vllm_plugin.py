"""A plugin of vLLM that resolves the names of adapters in a registry.

vLLM loads it by its entry point in the group `vllm.general_plugins`, in each of its processes. It
does nothing unless $SHARE_REGISTRY_VLLM_CACHE names a directory; docs/serving.md has the rest. An
exception here would end the process, one in the resolver the request: both are logged instead.
"""

import asyncio
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from share_registry.errors import InvalidInputError, NotFoundError, ShareRegistryError, ensure
from share_registry.outside.files import Outside

if TYPE_CHECKING:
    from share_registry.serving.served_adapters import ServedAdapters

_LOG: Final = logging.getLogger(__name__)
RESOLVER_NAME: Final = "share_registry"
CACHE: Final = "SHARE_REGISTRY_VLLM_CACHE"
CACHE_GB: Final = "SHARE_REGISTRY_VLLM_CACHE_GB"
KEEP_HOURS: Final = "SHARE_REGISTRY_VLLM_KEEP_HOURS"
PROFILE: Final = "SHARE_REGISTRY_VLLM_PROFILE"
RELABEL: Final = "SHARE_REGISTRY_VLLM_RELABEL"
_GIGABYTE: Final = 10**9
_HOUR_S: Final = 3600.0


def register() -> None:
    """Register the resolver with vLLM, once in a process; what goes wrong is logged."""
    try:
        _register(Outside())
    # vLLM calls it unguarded: anything raised ends the server
    except Exception:  # noqa: BLE001
        _LOG.exception("adapters of share_registry are not served")


class VllmResolver:
    """What vLLM asks for names that it does not know.

    Args:
        adapters: Where they come from.
        request: vLLM's `LoRARequest`.
    """

    def __init__(self, adapters: "ServedAdapters", request: Any) -> None:
        self._adapters = adapters
        self._request = request

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
        """Return the request to load an adapter, None where there is none; never raises."""
        return await asyncio.to_thread(self._resolve, base_model_name, lora_name)

    def _resolve(self, base_model_name: str, lora_name: str) -> Any:
        try:
            path = self._adapters.directory(lora_name, base_model_name)
            if path is None:
                return None
            request = self._request(
                lora_name=lora_name,
                # vLLM gives it one of its own
                lora_int_id=1,
                lora_path=str(path),
                is_3d_lora_weight=_is_fused(path),
            )
        except NotFoundError as error:
            _LOG.info("no adapter for %r: %s", lora_name[:256], error)
            return None
        except ShareRegistryError as error:
            _LOG.warning("no adapter for %r: %s", lora_name[:256], error)
            return None
        # an exception would end the request, and keep other resolvers from being asked
        except Exception:  # noqa: BLE001
            _LOG.exception("no adapter for %r", lora_name[:256])
            return None
        _LOG.info("%r is served from %s", lora_name, path)
        return request


def _register(outside: Outside) -> None:
    root = outside.environment(CACHE)
    if not root:
        return
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

    if RESOLVER_NAME in LoRAResolverRegistry.get_supported_resolvers():
        return
    adapters = _adapters(Path(root), outside)
    kind = type("ShareRegistryResolver", (VllmResolver, LoRAResolver), {})
    LoRAResolverRegistry.register_resolver(RESOLVER_NAME, kind(adapters, LoRARequest))


def _adapters(root: Path, outside: Outside) -> "ServedAdapters":
    from share_registry.registry.checkout.version_export import ExportOptions
    from share_registry.registry.location import locate, require_apart
    from share_registry.serving.adapter_cache import AdapterCache
    from share_registry.serving.served_adapters import ServedAdapters, ServingPlaces

    ensure(
        root.is_absolute(),
        InvalidInputError(f"{CACHE} {str(root)!r} is not absolute.", hint="Give the whole path."),
    )
    require_apart(root, locate(None, store=None, outside=outside), outside)
    profile = outside.environment(PROFILE)
    cache = AdapterCache(
        root,
        limit_bytes=int(_number(CACHE_GB, 20.0, outside) * _GIGABYTE),
        keep_s=_number(KEEP_HOURS, 24.0, outside) * _HOUR_S,
        outside=outside,
    )
    places = ServingPlaces(
        registry=None,
        store=None,
        options=ExportOptions(profile=profile or None, target="vllm"),
        relabel=outside.environment(RELABEL) in ("1", "true", "yes"),
    )
    return ServedAdapters(places, cache, outside)


def _number(name: str, default: float, outside: Outside) -> float:
    text = outside.environment(name)
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    ensure(
        0 < number < float("inf"),
        InvalidInputError(
            f"{name} {text!r} is not a number above 0.", hint=f"Leave it out for {default:g}."
        ),
    )
    return number


def _is_fused(path: Path) -> bool:
    """Tell whether an adapter has experts in fused tensors, which vLLM must be told."""
    from share_registry.exchange.config import CONFIG_FILE, MAX_CONFIG_BYTES

    content = Outside().read(path / CONFIG_FILE, limit=MAX_CONFIG_BYTES)
    return bool(json.loads(content).get("target_parameters"))
