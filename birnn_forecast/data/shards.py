"""Windows for several processes: each reads its own part of the order that a single process would read them in."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from darts.utils.data.torch_datasets._data_module import TorchDataModule
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from birnn_forecast.data.batches import TrainingBatches

# devices on which the series are kept, so that only the numbers of rows travel there
KEPT_ON = {"cuda"}


class SharedOrder(DistributedSampler):
    """Every `num_replicas`-th window from the `rank`-th on, of an order that is the same in all processes.

    The k-th batches of all processes together are the k-th batch of a single process that has as many windows a batch
    as they have together. Where the processes cannot share the windows evenly, the first ones of the order are read
    once more at its end if `even`: every window is read in every epoch, and fewer than `num_replicas` of them twice.

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
    even
        Whether all processes read as many windows; else the last ones may read one fewer.
    """

    def __init__(
        self,
        dataset: Dataset,
        num_replicas: int,
        rank: int,
        shuffle: bool,
        broadcast: Callable[[int], int],
        even: bool = True,
    ):
        super().__init__(dataset, num_replicas, rank, shuffle)
        self.broadcast = broadcast
        windows = len(dataset)  # type: ignore[arg-type]
        # one without any window would not take part in the means
        self.end = self.total_size if even or windows < num_replicas else windows
        self.num_samples = len(range(rank, self.end, num_replicas))

    def __iter__(self) -> Iterator[int]:
        windows = len(self.dataset)  # type: ignore[arg-type]
        order = torch.arange(windows)
        if self.shuffle:
            # each process may have drawn other numbers before
            seed = self.broadcast(int(torch.empty((), dtype=torch.int64).random_()))
            order = torch.randperm(windows, generator=torch.Generator().manual_seed(seed))
        return iter(order[torch.arange(self.rank, self.end, self.num_replicas) % windows].tolist())


class SharedDataModule(TorchDataModule):
    """Darts' data module, whose windows are shared among processes by :class:`SharedOrder`.

    Lightning would share them as well, but in an order of its own, and some windows of validation twice. On a GPU the
    series are kept there while there is training, if they fit and no workers cut the windows.
    """

    @classmethod
    def like(cls, other: TorchDataModule) -> "SharedDataModule":
        """Return one with the data and options of `other`."""
        options = {**other.dataloader_kwargs, "shuffle": other.shuffle}
        return cls(other.train_dataset, other.val_dataset, batch_size=other.batch_size, dataloader_kwargs=options)

    def train_dataloader(self) -> list | DataLoader:
        """Return the loader for training."""
        return self._shared(super().train_dataloader(), self.train_dataset, self.shuffle, even=True)

    def val_dataloader(self) -> list | DataLoader:
        """Return the loader for validation."""
        return self._shared(super().val_dataloader(), self.val_dataset, False, even=False)

    def teardown(self, stage: str) -> None:
        """Leave the device."""
        super().teardown(stage)
        for dataset in (self.train_dataset, self.val_dataset):
            if isinstance(dataset, TrainingBatches):
                dataset.keep_on(None)

    def _shared(self, loader: Any, dataset: Any, shuffle: bool, even: bool) -> list | DataLoader:
        if self.trainer is None or not isinstance(loader, DataLoader):
            return loader
        strategy: Any = self.trainer.strategy
        if strategy.root_device.type in KEPT_ON and isinstance(dataset, TrainingBatches) and not loader.num_workers:
            dataset.keep_on(strategy.root_device)
        own = {"sampler", "batch_sampler"} & self.dataloader_kwargs.keys()
        if own or not self.trainer._data_connector._requires_distributed_sampler(loader):
            return loader
        place: Any = self.trainer.distributed_sampler_kwargs
        sampler = SharedOrder(dataset, shuffle=shuffle, broadcast=strategy.broadcast, even=even, **place)
        return self._create_dataloader(dataset, sampler=sampler)
