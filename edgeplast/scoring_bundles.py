"""The verb ``score`` for what a device has: a bundle and pictures in, a ScoreTable out; torch is not needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeplast.arguments import BUDGET, UNLABELLED, check_kind, path_of
from edgeplast.budget import Budget
from edgeplast.bundle import MANIFEST, Bundle
from edgeplast.errors import InputError
from edgeplast.given import image_set, with_adapter
from edgeplast.progress import Progress, silent, unheard
from edgeplast.scores import DEFAULT_METHOD, ScoreTable
from edgeplast.stamps import kind_at

if TYPE_CHECKING:
    from edgeplast.trust.trusting import Trusted
    from edgeplast_devices.images import ImageSet


def score_bundle(
    bundle: Bundle | str | Path,
    images: str | Path | ImageSet,
    *,
    adapter: str | Path | None = None,
    method: str = DEFAULT_METHOD,
    others: Sequence[str] = (),
    pairs: int = 64,
    seed: int = 0,
    exclude: Sequence[str] = (),
    budget: Budget | None = None,
    threads: int | None = None,
    runtime: str = "auto",
    provider: str = "cpu",
    trusted: Trusted = None,
    progress: Progress = silent,
    notice: Callable[[str], None] | None = None,
) -> ScoreTable:
    """Score the components of a bundle on the device's own pictures; see :func:`edgeplast_devices.scoring.score`.

    The table is that of :func:`edgeplast.score` for the same weights and pictures; :func:`edgeplast.plan` takes it.

    Args:
        bundle: a bundle or its folder, fresh or adapted.
        images: a folder, archive or npz, or an opened set; labels are not needed.
        adapter: file or folder of an adapter that is put on the bundle first; see :func:`edgeplast.detach`.
        method: what the table goes by: ``plasticity-branch`` or ``plasticity``.
        others: further methods, measured on the same pairs.
        pairs: the most pairs of pictures; fewer once the ranking has settled.
        seed: of the pairs.
        exclude: patterns of pictures to leave out, where a path is given.
        budget: of this process; by default what the bundle was exported for, and ``Budget()`` for no limit.
        threads: of the runtime; by default all cores this process may use.
        runtime: the build of onnxruntime: ``ort-training``, ``stock``, or ``auto`` for the one that is installed.
        provider: the execution provider.
        trusted: public keys of which one must have signed it; see :func:`edgeplast.adapt`.
        progress: told of each chunk of pairs.
        notice: told of a budget that nobody gave, and what the images were taken for; None for nobody.
    """
    from edgeplast_devices.guard import guard_for
    from edgeplast_devices.scoring import score

    check_kind(budget, Budget, "budget", BUDGET)
    heard = notice or unheard
    with with_adapter(bundle, adapter, trusted, progress=progress) as (opened, _):
        guard = guard_for(opened, budget, heard)
        with guard.standing():  # before the images are opened: a list of files can be the peak
            pictures = _pictures(images, exclude, progress, heard)
            return score(
                opened,
                pictures,
                method=method,
                others=others,
                pairs=pairs,
                seed=seed,
                threads=threads,
                runtime=runtime,
                provider=provider,
                progress=progress,
                guard=guard,
            )


def is_bundle(place: str | Path) -> bool:
    """Tell whether a place is the folder of a bundle."""
    return kind_at(Path(place) / MANIFEST) == "file"


def _pictures(
    given: str | Path | ImageSet, exclude: Sequence[str], progress: Progress, heard: Callable[[str], None]
) -> ImageSet:
    """Return pictures: of a data set those that :func:`edgeplast.score` would take, else whatever lies in a folder."""
    from edgeplast_devices.images import ImageSet, open_images, open_unlabelled, understood

    if isinstance(given, ImageSet):
        return image_set(given, progress)
    path = path_of(given, "images", UNLABELLED)
    try:
        images = open_images(path, exclude=exclude, progress=progress)
    except InputError as error:
        if kind_at(path) != "folder" or exclude:
            raise
        try:
            return open_unlabelled([path], progress=progress)
        except InputError:
            raise error from None
    for line in understood(images):
        heard(line)
    return images
