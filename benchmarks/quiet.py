"""Benchmarks print their own lines only."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

QUIET_TRAINER = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "logger": False,
}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the remarks of Lightning, Darts and torch."""
    for name in ("pytorch_lightning", "lightning.pytorch", "darts"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
