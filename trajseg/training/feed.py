"""Training data by number: the n-th item depends only on n, so a stopped run resumes with exactly the next item."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")


class Feed(Generic[T]):
    """Items by number, prefetched while they are read in order.

    Args:
        make: returns the n-th item, always the same one; with a worker it must be picklable.
        workers: processes that prefetch items (0: items are made when they are read).
        stride: step between the numbers to be read, such as the number of training processes.
        device: where the items are returned; defaults to where they are made, on the CPU.
    """

    def __init__(
        self,
        make: Callable[[int], T],
        workers: int = 0,
        stride: int = 1,
        device: torch.device | None = None,
    ) -> None:
        self._items = _Numbered(make)
        self.workers, self.stride, self.device = workers, stride, device
        self._next = -1
        self._ahead: Iterator[T] = iter(())

    def at(self, number: int) -> T:
        """The item with this number (0-based)."""
        with torch.device("cpu"):  # even if torch's default is a GPU; also for workers, which start here
            item = self._made(number)
        return moved(item, self.device)

    def _made(self, number: int) -> T:
        if not self.workers:
            return self._items[number]
        if number != self._next:
            loader = DataLoader(
                self._items,
                batch_size=None,
                sampler=itertools.count(number, self.stride),
                num_workers=self.workers,
                prefetch_factor=4,
                generator=torch.Generator(),  # otherwise it would draw from the training's random numbers
            )
            self._ahead = iter(loader)
        self._next = number + self.stride
        return next(self._ahead)

    def onwards(self) -> Iterator[T]:
        """The items from number 0 on."""
        return map(self.at, itertools.count(0, self.stride))


class _Numbered(Dataset[T]):
    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> T:
        return self._make(number)


def moved(item: Any, device: torch.device | None) -> Any:
    """The same item with all its tensors on a device (None: unchanged); handles lists, tuples and dataclasses."""
    if device is None:
        return item
    if isinstance(item, Tensor):
        return item.to(device)
    if isinstance(item, (list, tuple)):
        return type(item)(moved(each, device) for each in item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        fields = {field.name: moved(getattr(item, field.name), device) for field in dataclasses.fields(item)}
        return dataclasses.replace(item, **fields)
    return item


SEEDS_APART = 1 << 32
"""Distance between the seeds of two runs, so that they share none of their first four billion items."""


def several(stream: Callable[..., Iterable[T]], size: int, seed: int, number: int) -> list[T]:
    """Item `number` of a feed from an endless stream, which is restarted with its own seed for each item.

    Args:
        stream: creates the stream from the keyword `seed`.
        size: number of its items that make one of the feed's.
    """
    return list(itertools.islice(stream(seed=seed * SEEDS_APART + number), size))


def first(stream: Callable[..., Iterable[T]], seed: int, number: int) -> T:
    """Like `several`, with one item of the stream."""
    return several(stream, 1, seed, number)[0]
