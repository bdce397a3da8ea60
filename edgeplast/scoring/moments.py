"""Moments of scores, measured chunk by chunk: merged exactly over processes, stopped in time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist

from edgeplast.errors import EdgeplastError
from edgeplast.moments import Moments as Moments
from edgeplast.moments import settled
from edgeplast.progress import Progress

T = TypeVar("T")


def accumulate(
    chunks: Sequence[T], measure: Callable[[T], np.ndarray], width: int, activity: str, progress: Progress
) -> Moments:
    """Measure chunk after chunk until the ranking has settled; under torchrun, each process its share.

    Args:
        chunks: what to measure, the same list in every process; process r of w takes chunks r, r + w, …
        measure: returns samples (S, width) of one chunk; NaN where a sample says nothing.
        width: number of components.
        activity: what to call this in progress reports.
        progress: told the number of chunks done.

    Raises:
        EdgeplastError: what ``measure`` raised, in every process, so that none waits for another.
    """
    rank, world = place()
    total = Moments.none(width)
    for start in range(0, len(chunks), world):
        part: Moments | EdgeplastError = Moments.none(width)
        if start + rank < len(chunks):
            try:
                part = Moments.of(measure(chunks[start + rank]))
            except EdgeplastError as error:
                part = error
        for other in from_all(part):
            if isinstance(other, EdgeplastError):
                raise other
            total = total.merged(other)
        progress(activity, min(start + world, len(chunks)), len(chunks))
        if settled(total):
            break
    return total


def place() -> tuple[int, int]:
    """Return (rank, number of processes); (0, 1) outside torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def from_all(thing: T) -> list[T]:
    """Return every process's ``thing``, in rank order; small things only, they travel pickled."""
    if place()[1] == 1:
        return [thing]
    gathered: list[Any] = [None] * place()[1]
    dist.all_gather_object(gathered, thing)
    return gathered


@contextlib.contextmanager
def torchrun_group() -> Iterator[None]:
    """Join the processes that torchrun started, unless the caller has done so; leave them at the end.

    gloo on every device: what travels are a few kilobytes of float64 on the host.
    """
    wanted = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
    if not wanted or not dist.is_available() or dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
