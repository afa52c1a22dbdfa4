"""Read an adapter out of a live `peft.PeftModel`, and load one into a model.

PEFT is imported only here, and only when called.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from types import ModuleType
from typing import Any, Final

import torch

from share_registry.errors import InvalidInputError, NotFoundError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.classify import FACTOR_MARK
from share_registry.exchange.config_checks import refuse_unsafe
from share_registry.exchange.normal_form import normal_form
from share_registry.exchange.peft_directory import adapter_of
from share_registry.exchange.plain_keys import PARALLEL, WRAPPERS, plain_config, plain_key
from share_registry.format.notes import Source
from share_registry.kinds import member_of, wrong_kind
from share_registry.names import Digest, digest

_PARALLEL: Final = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
_OTHER_BASE: Final = (
    "Load the base model the adapter was trained on; where tokens were added to it, call"
    " model.resize_token_embeddings first, as then."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSnapshot:
    """One adapter of a live model as it was at one moment, not looked into yet.

    Attributes:
        tensors: Its parameters by the keys of files.
        config_bytes: Its adapter_config.json.
        location: What kind of model it is of.
        remarks: What is worth knowing.
        basis, parent: As those of an `Adapter`.
    """

    tensors: Mapping[str, torch.Tensor]
    config_bytes: bytes
    location: str
    remarks: tuple[str, ...] = ()
    basis: Digest | None = None
    parent: str | None = None

    def adapter(self) -> Adapter:
        """Return the adapter. Raises InvalidInputError, RefusedError as for a directory."""
        source = Source(kind="peft", location=self.location)
        adapter = adapter_of(self.tensors, self.config_bytes, source=source)
        return replace(
            adapter,
            remarks=(*adapter.remarks, *self.remarks),
            basis=self.basis,
            parent=self.parent,
        )


def read_model(model: Any, *, adapter_name: str | None = None) -> Adapter:
    """Read one adapter of a live model, as `save_pretrained` would write it.

    Unlike there, patterns keep their order, and keys are those of the plain model where it is
    compiled or otherwise wrapped. An adapter trained in a subspace is read as the plain LoRA that
    it is: its tuner says so by `lora_tensors`, `lora_config`, `lora_basis` and `lora_parent`.

    Args:
        model: A `peft.PeftModel` or `PeftMixedModel`, or a model of transformers or diffusers that
            holds adapters itself; also inside torch.compile, DDP, FSDP or what accelerate makes.
        adapter_name: Which adapter; may be left out where there is one, or one is active.

    Raises:
        NotFoundError: the model has no such adapter.
        InvalidInputError, RefusedError: as for a directory.
    """
    return take_snapshot(model, adapter_name=adapter_name).adapter()


def take_snapshot(
    model: Any, *, adapter_name: str | None = None, copied: bool = False
) -> ModelSnapshot:
    """Take one adapter of a live model, as `read_model` reads it.

    Args:
        model: As there.
        adapter_name: As there.
        copied: Copy the tensors to the memory of the host: the model may be trained on.

    Raises:
        NotFoundError: the model has no such adapter.
        InvalidInputError, RefusedError: as for a directory.
    """
    model = unwrap(model)
    name = _adapter_name(model, adapter_name)
    tuner: Any = getattr(model, "base_model", None)
    in_subspace = hasattr(type(tuner), "lora_tensors")
    config = tuner.lora_config(name) if in_subspace else model.peft_config[name]
    values = _to_json(plain_config(_to_json(_config_of(model, config))))
    refuse_unsafe(values)
    tensors = live_tensors(model, name)
    if in_subspace:
        passengers = {key: value for key, value in tensors.items() if f".{tuner.prefix}" not in key}
        tensors = passengers | tuner.lora_tensors(name)
    if copied:
        tensors = {key: value.detach().to("cpu", copy=True) for key, value in tensors.items()}
    inactive = [each for each in model.peft_config if each != name]
    remark = f"the active adapter {name!r} was taken; the model also has {', '.join(inactive)}."
    return ModelSnapshot(
        tensors=tensors,
        config_bytes=json.dumps(values, indent=2).encode(),
        location=type(model).__name__,
        remarks=(remark,) if adapter_name is None and inactive else (),
        basis=digest(tuner.lora_basis(name)) if in_subspace else None,
        parent=tuner.lora_parent(name) if in_subspace else None,
    )


def refuse_shards(model: Any) -> None:
    """Refuse a model that each of several processes has a part of.

    To put the parts together takes all the processes. Raises RefusedError.
    """
    inner = unwrap(model)
    if not isinstance(inner, torch.nn.Module):
        return
    by_fsdp = any("_is_fsdp_managed_module" in vars(module) for module in inner.modules())
    by_deepspeed = any(hasattr(parameter, "ds_id") for parameter in inner.parameters())
    ensure(
        not (by_fsdp or by_deepspeed),
        RefusedError(
            f"the parameters are sharded by {'FSDP' if by_fsdp else 'DeepSpeed ZeRO 3'}: no "
            "process has the adapter.",
            hint="Save it gathered, as `trainer.save_model()` does, and commit that directory.",
        ),
    )


def unwrap(model: Any) -> Any:
    """Return the model that holds adapters, without what it is wrapped in."""
    inner = _inner(model)
    if inner is None and member_of(model, "peft_config") is None:
        inner = _parts(model).get(PARALLEL)
    return model if inner is None else unwrap(inner)


def apply(adapter: Adapter, model: Any, *, name: str) -> Any:
    """Load an adapter into a model, strictly; a model that does not fit is left as it was.

    Raises as `Adapter.apply_to`.
    """
    peft = _peft()
    ensure(
        isinstance(model, torch.nn.Module),
        wrong_kind("model", model, "a torch module", "Give the model itself."),
    )
    adapter, _ = normal_form(adapter)
    names = {field.name for field in fields(peft.LoraConfig)} - {"runtime_config"}
    members = {key: value for key, value in adapter.config.items() if key in names}
    wrapped = None
    try:
        wrapped = _insert(peft, model, peft.LoraConfig(**{**members, "inference_mode": True}), name)
        _check_loaded(
            peft.set_peft_model_state_dict(wrapped, adapter.state_dict(), adapter_name=name), name
        )
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        _take_out(wrapped, model, name)
        raise InvalidInputError(
            f"the adapter does not fit the model: {str(error)[:500]}", hint=_OTHER_BASE
        ) from error
    except InvalidInputError:
        _take_out(wrapped, model, name)
        raise
    wrapped.set_adapter(name)
    return wrapped.eval()


def live_name(model: Any, adapter_name: str | None) -> str:
    """Return the name of an adapter in a live `peft.PeftModel`.

    Raises:
        NotFoundError: the model has no such adapter.
        InvalidInputError: it is no PEFT model, or which adapter is meant is not clear.
        RefusedError: peft is not installed.
    """
    ensure(
        isinstance(model, _peft().PeftModel),
        InvalidInputError(
            f"model is {type(model).__name__}, expected a peft.PeftModel.",
            hint="Load an adapter into it first: `Adapter.apply_to(model)`.",
        ),
    )
    return _adapter_name(model, adapter_name)


def file_keys(model: Any) -> Callable[[str], str]:
    """Return what gives the keys of a live model as files have them."""
    is_parallel = any(isinstance(layer, _PARALLEL) for layer in _bases(model))
    return partial(plain_key, strip_front=is_parallel)


def live_tensors(model: Any, name: str) -> dict[str, torch.Tensor]:
    """Return the parameters of an adapter of a live model by the keys of files."""
    plain = file_keys(model)
    # the state of some wrapped modules has plain keys, while PEFT looks them up by the wrapped path
    paths = {
        plain(path): path
        for path, _ in (
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        )
    }
    state = {
        paths.get(plain(key), key): value for key, value in model.state_dict(keep_vars=True).items()
    }
    tensors = _peft().get_peft_model_state_dict(
        model,
        state,
        adapter_name=name,
        save_embedding_layers=_saves_embeddings(model.peft_config[name]),
    )
    return {plain(key): value for key, value in tensors.items() if isinstance(value, torch.Tensor)}


def _insert(peft: ModuleType, model: Any, config: Any, name: str) -> Any:
    if not isinstance(model, peft.PeftModel):
        return peft.get_peft_model(model, config, adapter_name=name)
    ensure(
        name not in model.peft_config,
        InvalidInputError(f"the model has an adapter {name!r} already.", hint="Pass another name."),
    )
    model.add_adapter(name, config)
    return model


def _take_out(wrapped: Any, model: Any, name: str) -> None:
    if wrapped is None:
        return
    if wrapped is model:
        model.delete_adapter(name)
    else:
        wrapped.unload()


def _peft() -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise RefusedError(
            "peft is not installed, expected it for live models.",
            hint="pip install 'share-registry[peft]'",
        ) from error
    return peft  # type: ignore[no-any-return]


def _adapter_name(model: Any, name: str | None) -> str:
    names = list(model.peft_config)
    ensure(
        names,
        InvalidInputError("the model has no adapter.", hint="Load or train one in it first."),
    )
    if name is None:
        candidates = names if len(names) == 1 else _active_names(model)
        ensure(
            len(candidates) == 1,
            InvalidInputError(
                f"the model has the adapters {', '.join(names)}, expected one.",
                hint="Pass adapter_name.",
            ),
        )
        return str(candidates[0])
    ensure(
        name in names,
        NotFoundError(
            f"the model has no adapter {name!r}; it has {', '.join(names)}.",
            hint="Pass adapter_name.",
        ),
    )
    return name


def _active_names(model: Any) -> list[str]:
    # a method of models that hold adapters themselves
    active = model.active_adapters
    return list(active() if callable(active) else active)


def _saves_embeddings(config: Any) -> bool:
    """Decide as `save_embedding_layers="auto"`, but without a question to the Hub."""
    targets = getattr(config, "target_modules", None)
    return (
        isinstance(targets, list | set | tuple)
        and not {"embed_tokens", "lm_head"}.isdisjoint(targets)
        and not getattr(config, "trainable_token_indices", None)
    )


def _bases(model: Any) -> list[Any]:
    """Return the model that PEFT changed and what is inside its wrappers, the plain model last."""
    tuner = getattr(model, "base_model", model)
    bases = [tuner.model if tuner is not model and hasattr(tuner, "peft_config") else model]
    while (inner := _inner(bases[-1])) is not None:
        bases.append(inner)
    return bases


def _inner(model: Any) -> Any:
    """Return what a wrapper wraps; None for a model that is none."""
    parts = _parts(model)
    names = (*WRAPPERS, PARALLEL) if isinstance(model, _PARALLEL) else WRAPPERS
    return next((parts[name] for name in names if name in parts), None)


def _parts(model: Any) -> Mapping[str, Any]:
    return model._modules if isinstance(model, torch.nn.Module) else {}


def _config_of(model: Any, config: Any) -> dict[str, object]:
    """Return the config as save_pretrained completes it.

    A mapping to a class outside transformers is left out.
    """
    base = _bases(model)[-1]
    values: dict[str, object] = {**config.to_dict(), "inference_mode": True}
    values["base_model_name_or_path"] = (
        values.get("base_model_name_or_path") or getattr(base, "name_or_path", None) or None
    )
    kind = type(base)
    if values.get("task_type") is None and kind.__module__.partition(".")[0] == "transformers":
        values["auto_mapping"] = {
            "base_model_class": kind.__name__,
            "parent_library": kind.__module__,
        }
    return dict(sorted(values.items()))


def _to_json(value: object, name: str = "") -> Any:
    """Return JSON values: sets sorted, members sorted except where their order means something."""
    if isinstance(value, Mapping):
        members = {str(key): _to_json(item, str(key)) for key, item in value.items()}
        is_ordered = name in ("rank_pattern", "alpha_pattern")
        return members if is_ordered else dict(sorted(members.items()))
    if isinstance(value, set | frozenset):
        return sorted(_to_json(item) for item in value)
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(getattr(value, "value", value))


def _check_loaded(result: Any, name: str) -> None:
    """Check that every tensor went in and every factor was given one: PEFT loads leniently."""
    missing = [key for key in result.missing_keys if FACTOR_MARK in key and f".{name}" in key]
    unexpected = list(result.unexpected_keys)
    if missing or unexpected:
        problem = (
            f"expects {missing[0]!r}" if not unexpected else f"has no place for {unexpected[0]!r}"
        )
        raise InvalidInputError(
            f"the adapter does not fit the model, which {problem}"
            f" ({len(unexpected)} tensors too many, {len(missing)} too few).",
            hint=_OTHER_BASE,
        )
