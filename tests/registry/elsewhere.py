"""A second device made of the first.

Tensors that say they are on a GPU, and an error wherever one meets a tensor that is not.

The numbers are computed on the CPU, so that code meant for a GPU can be run, and its results
compared bit for bit, where there is none. A GPU refuses what is refused here: tensors of two
devices in one operation (but for single numbers, and for what only says which elements to read),
and arrays without a copy to the CPU.
"""

from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

GPU: Final = torch.device("cuda", 0)
_READS: Final = (Tensor.__getitem__,)
_ARRAYS: Final = (Tensor.numpy, Tensor.__array__)


class Elsewhere(TorchFunctionMode):
    """While it is entered, "cuda" is such a device."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return GPU if _there(args[0]) else func(*args)
        if func in _ARRAYS and _there(args[0]):
            raise TypeError("can't convert a tensor of the second device to numpy")
        if func is Tensor.cpu:
            return _moved(args[0], to_gpu=False)
        if func is Tensor.to:
            return _to(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = _there(args[0]) if func in _READS else any(map(_there, tensors))
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = "cpu"
        if (
            any(map(_there, tensors))
            and not (func in _READS and there)
            and not all(_there(tensor) or tensor.dim() == 0 for tensor in tensors)
        ):
            raise RuntimeError(
                f"{getattr(func, '__name__', func)}: expected all tensors to be on the same device"
            )
        result = func(*args, **kwargs)
        to_gpu = _is_gpu(asked) if asked is not None else there
        self.operations += to_gpu
        return tree_map(
            lambda leaf: _marked(leaf) if to_gpu and isinstance(leaf, Tensor) else leaf, result
        )


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    places = [place for place in (*args, *kwargs.values()) if isinstance(place, str | torch.device)]
    others = [tensor_argument for tensor_argument in args if isinstance(tensor_argument, Tensor)]
    to_gpu = _is_gpu(places[0]) if places else _there(others[0]) if others else _there(tensor)
    dtypes = [
        *(dtype for dtype in (*args, *kwargs.values()) if isinstance(dtype, torch.dtype)),
        *(tensor_argument.dtype for tensor_argument in others),
    ]
    return _moved(tensor.to(dtypes[0]) if dtypes else tensor, to_gpu=to_gpu)


def _moved(tensor: Tensor, *, to_gpu: bool) -> Tensor:
    copied = tensor.detach().clone()
    return _marked(copied) if to_gpu else copied


def _marked(tensor: Tensor) -> Tensor:
    tensor._elsewhere = True  # type: ignore[attr-defined]
    return tensor


def _there(tensor: Tensor) -> bool:
    return getattr(tensor, "_elsewhere", False)


def _is_gpu(place: str | torch.device) -> bool:
    return str(place).startswith("cuda")
