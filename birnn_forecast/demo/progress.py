"""The demo's progress bar, and quiet around it."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from tqdm import tqdm

BAR = "{desc:<22}{bar:30} {percentage:3.0f} %  {elapsed}"


@contextmanager
def progress_bar(total: int) -> Iterator[tuple[tqdm, Callable[[], None]]]:
    """Show a bar of so many ticks while the models are at work; give the bar and what moves it on."""
    with quiet(), one_thread(), tqdm(total=total, leave=False, bar_format=BAR, mininterval=0.5) as bar:

        def tick() -> None:  # not `bar.update`: Darts copies its trainer's callbacks, and a bar cannot be copied
            bar.update()

        yield bar, tick


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the remarks of Lightning and torch on the machine while the progress bar is shown."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning|torch\.")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: networks as small as these gain nothing from more, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
