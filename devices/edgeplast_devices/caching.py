"""What a run keeps of its pictures: a Bundle, options and room on the disk in; a source for each of its splits out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgeplast.adaptation import CacheReport
from edgeplast.bundle import FROZEN, Bundle
from edgeplast.errors import UsageError
from edgeplast.prefixes import PREFIX_GRAPH
from edgeplast.units import parse_bytes
from edgeplast_devices.cache import Cache, Rounding, cache_file, clear_latents, slot_bytes
from edgeplast_devices.disk import DiskShares
from edgeplast_devices.images import ImageSet, Splits, batches
from edgeplast_devices.latents import Latents, Source
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.sessions import MakesLatents

DEFAULT_VIEWS = 4
"""Of each training picture where it may be varied: as it is, and three variations (README.md, What never changes)."""

_TRAIN = "train"


def settled(
    options: TrainingOptions,
    bundle: Bundle,
    images: Splits,
    shares: DiskShares,
    before: TrainingOptions | None = None,
) -> TrainingOptions:
    """Return options that say what is kept: how many views of each training picture, in how many bits, or nothing.

    Views are as many as fit, at most those wanted; None where none do, or where as many are wanted as there are epochs:
    then each is seen once. ``cache`` is ``none``, or the bytes that there may be.

    Args:
        options: as they were given.
        bundle: to adapt.
        images: training images, and what is measured on.
        shares: of the disk.
        before: of the run that goes on here, whose choice stands: the same views in no more room than there is now.
            What does not fit is computed anew each time.

    Raises:
        UsageError: a cache is asked for, and the bundle has no prefix.
    """
    asked = options.cache != "auto" or options.views is not None
    prefix = bundle.manifest.prefix
    if options.cache == "none":
        return msgspec.structs.replace(options, views=None)
    if prefix is None:
        if asked:
            raise UsageError(
                "There is nothing to cache: what trains begins so early in the model that hardly anything before it "
                "stays the same. Leave out --cache and --views, or export with a plan that trains later parts only "
                "(--strategy last-k:4, --train head)."
            )
        return msgspec.structs.replace(options, cache="none")
    if before is not None and options.views in (None, before.views):
        size = before.cache if options.cache == "auto" or before.cache == "none" else options.cache
        kept = size if size == "none" else f"{max(_most_bytes(shares, size), 1)}B"
        return msgspec.structs.replace(options, cache=kept, views=before.views)
    most = _most_bytes(shares, options.cache)
    slot = slot_bytes(Rounding(prefix.shape, options.cache_bits))
    measured_on = [split for split in (images.val, images.test, *images.also.values()) if split is not None]
    left = most - slot * sum(map(len, measured_on))
    if left < 0:
        return msgspec.structs.replace(options, cache="none", views=None)
    wanted = options.views or (1 if options.augment == "none" else DEFAULT_VIEWS)
    views = min(wanted, int(left // (slot * max(len(images.train), 1))))
    useful = views and (views < options.epochs or options.views is not None)
    return msgspec.structs.replace(options, cache=f"{most}B", views=views if useful else None)


def _most_bytes(shares: DiskShares, asked: str) -> int:
    """Return what latents may take: a size, but no more than a user allowed for all; or a share of what is free."""
    if asked == "auto":
        return shares.unasked_bytes
    return min(parse_bytes(asked), shares.left_bytes) if shares.is_limited else parse_bytes(asked)


class Kept:
    """Where the graphs of one run get their pictures from.

    Args:
        bundle: that is adapted.
        splits: by name.
        options: with what is kept settled.
        folder: of the run; None keeps nothing.

    Attributes:
        report: what is kept; None for nothing.
    """

    def __init__(
        self, bundle: Bundle, splits: Mapping[str, ImageSet], options: TrainingOptions, folder: Path | None
    ) -> None:
        self._prefix: MakesLatents | None = None
        self._caches: dict[str, Cache] = {}
        self._bundle, self._splits, self._options, self._folder = bundle, splits, options, folder
        prefix = bundle.manifest.prefix
        is_kept = prefix is not None and folder is not None and options.cache != "none"
        self._rounding = Rounding(prefix.shape, options.cache_bits) if prefix and is_kept else None
        self.report: CacheReport | None = None
        if self._rounding is not None:
            most = sum(self._most_bytes.values())
            self.report = CacheReport(bits=self._rounding.bits, views=options.views or 0, most_bytes=most)

    @property
    def _views(self) -> dict[str, int]:
        """Of each split that is kept."""
        views = {name: self._options.views if name == _TRAIN else 1 for name in self._splits}
        return {name: count for name, count in views.items() if count is not None}

    @property
    def _most_bytes(self) -> dict[str, int]:
        """Of each split that is kept: what is measured on goes first."""
        assert self._rounding is not None
        left, slot, found = parse_bytes(self._options.cache), slot_bytes(self._rounding), dict[str, int]()
        for name in sorted(self._views, key=lambda name: name == _TRAIN):
            found[name] = min(left, slot * len(self._splits[name]) * self._views[name])
            left -= found[name]
        return found

    def open(self, prefix: MakesLatents | None) -> None:
        """Open the files.

        Args:
            prefix: makes latents; None where the bundle has no prefix.
        """
        self._prefix = prefix
        if self._rounding is None or self._folder is None:
            return
        files = {name: self._file(name, self._folder, self._rounding.bits) for name in self._views}
        clear_latents(self._folder, but=files.values())
        most = self._most_bytes
        for name, views in self._views.items():
            self._caches[name] = Cache(files[name], len(self._splits[name]), views, self._rounding, most[name])

    def _file(self, name: str, folder: Path, bits: int) -> Path:
        manifest, options = self._bundle.manifest, self._options
        made_of = (manifest.files[PREFIX_GRAPH].sha256, manifest.files[FROZEN].sha256)
        how = msgspec.json.encode(manifest.preprocessing).decode()
        varied = (options.augment, str(options.seed), str(options.views)) if name == _TRAIN else ()
        kind = name.partition(" ")[0]  # of sets that are measured beside the data's own: their names are the user's
        return cache_file(folder, kind, name, *made_of, how, self._splits[name].fingerprint(), str(bits), *varied)

    def training(self) -> Source:
        """Return the source of training pictures, varied; of those that are kept the first view is as they are."""
        return self._source(_TRAIN)

    def evaluating(self, split: str) -> Source:
        """Return the source of pictures as they are."""
        return self._source(split)

    def anew(self) -> Source:
        """Return a source that keeps nothing, for pictures that are varied in ways of their own."""
        return self._source("")

    def _source(self, split: str) -> Source:
        return batches if self._prefix is None else Latents(self._prefix.latents, self._caches.get(split))

    def close(self) -> None:
        """Let go of the files; they stay for a run that goes on."""
        for cache in self._caches.values():
            cache.close()
