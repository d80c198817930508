"""Work shared among the threads that torch has already."""

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Forked:
    """Whether this process came by a fork: then torch's threads are gone, and waiting for them would never end."""

    here = False


def note_fork() -> None:
    """Remember that this process is a forked child."""
    Forked.here = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=note_fork)


@functools.cache
def parallel() -> Callable[..., Any] | None:
    """Return the entry of torch's OpenMP, None where it is not the GNU one that came with torch.

    Threads of our own would compete with torch's, which keep spinning for a while after each operation.
    """
    if not sys.platform.startswith("linux"):
        return None
    for library in Path(torch.__file__).parent.glob("lib/libgomp*.so*"):
        try:
            return ctypes.CDLL(str(library), mode=os.RTLD_NOLOAD | os.RTLD_NOW).GOMP_parallel
        except (OSError, AttributeError):
            continue
    return None


def n_threads() -> int:
    """Return how many threads :func:`in_threads` may use."""
    return 1 if Forked.here or parallel() is None else torch.get_num_threads()


def in_threads(function: Callable[..., Any], tasks: Sequence[tuple]) -> None:
    """Call `function`, which must release the lock of the interpreter, with each of `tasks`."""
    threads = min(n_threads(), len(tasks))
    if threads < 2:
        for task in tasks:
            function(*task)
        return
    rest, errors = list(tasks), []

    def work(_: Any) -> None:
        try:
            while True:
                task = rest.pop()
                function(*task)
        except IndexError:
            return
        except BaseException as error:  # must not leave through foreign code
            errors.append(error)

    run: Any = parallel()
    run(CALLBACK(work), None, ctypes.c_uint(threads), ctypes.c_uint(0))
    if errors:
        raise errors[0]
