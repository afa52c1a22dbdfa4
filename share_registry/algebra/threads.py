"""Compute on the calling thread alone, whatever the environment says.

Adapters are many small matrices. Shared out among OpenMP's threads each of them ends in a barrier,
where threads wait by spinning: idle, that costs twice the processor time; beside other work, the
thread waited for has no core, and a commit of a tenth of a second takes ten.

The number of threads is a setting of the calling thread, in OpenMP and in MKL.
`torch.set_num_threads` sets these two and, beside them, what threads started later begin with: it
would reach into the caller's threads. So they are set at the libraries that torch has loaded. Where
these have no such function, nothing is changed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import CDLL
from functools import cache
from typing import Final, TypeVar

import torch

from share_registry.parallel import side_by_side

# Elements from which on threads cost less than they save
_MANY: Final = 1 << 19
_T = TypeVar("_T")
_R = TypeVar("_R")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on the calling thread alone; also a decorator.

    Threads started within have the caller's setting.
    """
    # also makes torch begin with its own setting, which it would else do later, over this one
    before = torch.get_num_threads()
    set_openmp, set_mkl = _setters()
    if before == 1 or set_openmp is None:
        yield
        return
    set_openmp(1)
    mkl_before = set_mkl(1) if set_mkl is not None else 0
    try:
        yield
    finally:
        set_openmp(before)
        if set_mkl is not None:
            set_mkl(mkl_before)


def shared_out(function: Callable[[_T], _R], items: Sequence[_T], *, elements: int) -> Iterable[_R]:
    """Return what a function gives for every item, in order.

    Where the items have many elements together, two threads share them out, each computing alone.
    """
    if elements < _MANY:
        return map(function, items)
    return side_by_side(one_thread()(function), items)


@cache
def _setters() -> tuple[Callable[[int], object] | None, Callable[[int], int] | None]:
    """Return the functions by which OpenMP and MKL set the threads of the calling thread.

    Symbols of a library are looked for in those it is linked to as well.
    """
    try:
        libraries = CDLL(torch._C.__file__)
    except OSError:
        return None, None
    return (
        getattr(libraries, "omp_set_num_threads", None),
        getattr(libraries, "MKL_Set_Num_Threads_Local", None),
    )
