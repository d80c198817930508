"""Windows for several processes: each reads its own part of the order that a single process would read them in."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from darts.utils.data.torch_datasets._data_module import TorchDataModule
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class SharedOrder(DistributedSampler):
    """Every `num_replicas`-th window from the `rank`-th on, of an order that is the same in all processes.

    The k-th batches of all processes together are the k-th batch of a single process that has as many windows a batch
    as they have together. Where the processes cannot share the windows evenly, the first ones of the order are read
    once more at its end: every window is read in every epoch, and fewer than `num_replicas` of them twice.

    Parameters
    ----------
    dataset
        What has the windows.
    num_replicas
        Number of processes.
    rank
        Number of this one, from 0.
    shuffle
        Whether to draw a new order in each epoch, from torch's global random numbers as a ``RandomSampler`` does.
    broadcast
        Returns in all processes what the process of rank 0 passes.
    """

    def __init__(self, dataset: Dataset, num_replicas: int, rank: int, shuffle: bool, broadcast: Callable[[int], int]):
        super().__init__(dataset, num_replicas, rank, shuffle)
        self.broadcast = broadcast

    def __iter__(self) -> Iterator[int]:
        windows = len(self.dataset)  # type: ignore[arg-type]
        order = torch.arange(windows)
        if self.shuffle:
            # their random numbers may have gone apart
            seed = self.broadcast(int(torch.empty((), dtype=torch.int64).random_()))
            order = torch.randperm(windows, generator=torch.Generator().manual_seed(seed))
        return iter(order[torch.arange(self.rank, self.total_size, self.num_replicas) % windows].tolist())


class SharedDataModule(TorchDataModule):
    """Darts' data module, whose windows for training are shared among processes by :class:`SharedOrder`.

    Lightning would share them as well, but in an order of its own.
    """

    @classmethod
    def like(cls, other: TorchDataModule) -> "SharedDataModule":
        """Return one with the data and options of `other`."""
        options = {**other.dataloader_kwargs, "shuffle": other.shuffle}
        return cls(other.train_dataset, other.val_dataset, batch_size=other.batch_size, dataloader_kwargs=options)

    def train_dataloader(self) -> list | DataLoader:
        """Return the loader for training."""
        loader: Any = super().train_dataloader()
        own = {"sampler", "batch_sampler"} & self.dataloader_kwargs.keys()
        if self.trainer is None or own or not self.trainer._data_connector._requires_distributed_sampler(loader):
            return loader
        place: Any = self.trainer.distributed_sampler_kwargs
        sampler = SharedOrder(
            self.train_dataset, shuffle=self.shuffle, broadcast=self.trainer.strategy.broadcast, **place
        )
        return self._create_dataloader(self.train_dataset, sampler=sampler)
