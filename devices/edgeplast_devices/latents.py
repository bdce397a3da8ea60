"""Models that a bundle holds in two parts: pictures through the prefix to latents, and what goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeplast.contract import IMAGES, LATENTS
from edgeplast.placement import ON_CPU, Placement
from edgeplast.prefixes import Prefix
from edgeplast.preprocessing import Preprocessing
from edgeplast_devices.binding import bind_input, bind_output
from edgeplast_devices.cache import Cache
from edgeplast_devices.images import Augmentation, Batch, ImageSet, Unreadable, batches
from edgeplast_devices.runtime import OutOfMemoryError, open_session, run_bound


class PrefixSession:
    """Computes latents, which no training changes.

    Args:
        graph: the prefix graph of a bundle.
        prefix: what its manifest says of it.
        threads: of the runtime.
        placement: where the graph runs.
    """

    def __init__(self, graph: Path, prefix: Prefix, threads: int, placement: Placement = ON_CPU) -> None:
        self._session, self._shape = open_session(graph, threads, placement), prefix.shape
        self._binding = self._session.io_binding()

    def latents(self, images: np.ndarray) -> np.ndarray:
        """Return latents float32 (b, n, …) of images float32 (b, C, H, W).

        Raises:
            OutOfMemoryError: the runtime could not get memory.
        """
        result = np.empty((len(images), *self._shape), np.float32)
        bind_input(self._binding, IMAGES, images)
        bind_output(self._binding, LATENTS, result.reshape(-1, *self._shape[1:]))
        run_bound(self._session, self._binding)
        return result


class Source(Protocol):
    """Goes through pictures as :func:`~.images.batches` does, and yields what a bundle's graphs take of them."""

    def __call__(
        self,
        images: ImageSet,
        how: Preprocessing,
        size: int,
        *,
        order: Sequence[int] | np.ndarray | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        epoch: int = 0,
        unreadable: Unreadable,
    ) -> Iterator[Batch]:
        """Yield batches whose ``images`` are pictures (b, C, H, W), or latents (b, n, …)."""


class Latents:
    """A source of latents of one set of pictures.

    What trains is what is kept: latents come back from the cache's rounding before they are used for the first time,
    so that a run that goes on after a crash sees what it would have seen. A micro-batch is computed as a whole, or
    not at all: bits may depend on which pictures pass through a graph together.

    Args:
        compute: latents of preprocessed pictures.
        cache: where they are kept, as many views of a picture as it holds; None computes them anew each time.
    """

    def __init__(self, compute: Callable[[np.ndarray], np.ndarray], cache: Cache | None = None) -> None:
        self._compute, self._cache = compute, cache

    def __call__(
        self,
        images: ImageSet,
        how: Preprocessing,
        size: int,
        *,
        order: Sequence[int] | np.ndarray | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        epoch: int = 0,
        unreadable: Unreadable,
    ) -> Iterator[Batch]:
        """Yield batches of latents; see :class:`Source`."""
        chosen = np.arange(len(images)) if order is None else np.asarray(order, dtype=np.int64)
        view = epoch if self._cache is None else epoch % self._cache.views
        varied = partial(
            batches, images, how, size, augmentation=None if self._is_plain(view) else augmentation, seed=seed,
            epoch=view, unreadable=unreadable,
        )  # fmt: skip
        found = False
        for start in range(0, len(chosen), size):
            indices = chosen[start : start + size]
            if self._cache is None:
                batch = self._made(view, _first(varied(order=indices)))
            else:
                batch = self._kept(self._cache, view, indices, images.labels, lambda some: _first(varied(order=some)))
            if batch is not None:
                found = True
                yield batch
            del batch
        # As of pictures themselves: a resumed epoch may have only a damaged rest to go through.
        if not found and len(chosen) and len(chosen) >= len(images):
            unreadable.check(len(images))

    def _is_plain(self, view: int) -> bool:
        """Whether a view is the picture as it is: the first that is kept, which evaluation sees too."""
        return self._cache is not None and view == 0

    def _made(self, view: int, pictures: Batch | None) -> Batch | None:
        """Return the latents of a batch of pictures, as they are kept."""
        if pictures is None:
            return None
        latents = halved(self._compute, pictures.images)
        if self._cache is not None:
            latents = self._cache.keep(view, pictures.indices, latents)
        return Batch(latents, pictures.labels, pictures.indices)

    def _kept(
        self,
        cache: Cache,
        view: int,
        indices: np.ndarray,
        labels: np.ndarray,
        read: Callable[[np.ndarray], Batch | None],
    ) -> Batch | None:
        """Return the latents of some pictures from the cache where all of them are there that can be read."""
        latents, whole = cache.read(view, indices)
        missing = [i for i in indices[~whole].tolist() if not cache.is_left_out(i)]
        # Some may be missing because they cannot be read; a process that goes on has yet to find that out.
        if missing and (not whole.any() or read(np.asarray(missing)) is not None):
            del latents
            batch = self._made(view, read(indices))
            cache.leave_out(set(indices.tolist()) - set(batch.indices.tolist() if batch else ()))
            return batch
        cache.leave_out(missing)
        there = indices[whole]
        return Batch(latents, labels[there].astype(np.int64), there) if len(there) else None


def _first(found: Iterator[Batch]) -> Batch | None:
    return next(found, None)


def halved(work: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    """Do work; when memory runs out, on one half of the images after the other."""
    try:
        return work(images)
    except OutOfMemoryError:
        if len(images) == 1:
            raise
    half = len(images) // 2
    return np.concatenate([halved(work, images[:half]), halved(work, images[half:])])
