"""One thread a cell, so that CPU seconds can be compared and sums come out in one order."""

from collections.abc import Iterator
from contextlib import contextmanager

# for libraries that read it when they are loaded
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch and the libraries of linear algebra that are loaded to one thread."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
