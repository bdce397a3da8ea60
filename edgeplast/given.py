"""What users give a verb, opened: bundles, sets of pictures, splits, and other sets beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeplast.arguments import ADAPTER, BUNDLE, LABELLED, UNLABELLED, path_of, wrong_kind
from edgeplast.bundle import Bundle
from edgeplast.errors import UsageError
from edgeplast.files import possible
from edgeplast.progress import Progress, silent

if TYPE_CHECKING:
    from edgeplast.trust.signing import Seal, Signer, Signs
    from edgeplast.trust.trusting import Trusted, TrustedKeys
    from edgeplast_devices.images import ImageSet, Splits
    from edgeplast_devices.options import TrainingOptions

    OtherSets = Mapping[str, str | Path | ImageSet] | Sequence[str | Path | ImageSet]
    """Sets beside those of a run, by name or in a list, where a path is its own name."""


def bundle_of(given: Bundle | str | Path, trusted: Trusted = None, progress: Progress = silent) -> Bundle:
    """Return a bundle, opened where a folder is given, and where keys are given one that one of them signed."""
    if isinstance(given, Bundle) and (trusted is None or given.signature is not None):
        return given
    path = given.path if isinstance(given, Bundle) else path_of(given, "bundle", BUNDLE)
    return Bundle.open(path, trusted=trusted, progress=progress)


def signed_bundle(
    given: Bundle | str | Path, trusted: Trusted, sign: Signs, progress: Progress = silent
) -> tuple[Bundle, Seal | None]:
    """Return a bundle, and what signs what is made from it; arguments as of :func:`whom`."""
    keys, signer = whom(trusted, sign)
    bundle = bundle_of(given, keys, progress)
    return bundle, None if signer is None else signer.sealing(bundle)


@contextmanager
def with_adapter(
    given: Bundle | str | Path,
    adapter: str | Path | None,
    trusted: Trusted,
    sign: Signs = None,
    progress: Progress = silent,
) -> Iterator[tuple[Bundle, Seal | None]]:
    """Give what :func:`signed_bundle` returns, with an adapter on the bundle as long as the block runs."""
    keys, signer = whom(trusted, sign)
    bundle = bundle_of(given, keys, progress)
    seal = None if signer is None else signer.sealing(bundle)
    if adapter is None:
        yield bundle, seal
        return
    from edgeplast_devices.detaching import attached

    with attached(bundle, path_of(adapter, "adapter", ADAPTER), keys) as found:
        yield found, seal


def whom(trusted: Trusted, sign: Signs) -> tuple[TrustedKeys | None, Signer | None]:
    """Return whom to trust and who signs; who signs is trusted too, for what it made itself.

    Args:
        trusted: public keys of which one must have signed what is opened; None asks for no signature.
        sign: a private key, or its file; None signs nothing.
    """
    if trusted is None and sign is None:
        return None, None  # and PyNaCl may be missing
    from edgeplast.trust.signing import signer_of
    from edgeplast.trust.trusting import trusted_keys

    keys, signer = trusted_keys(trusted), None if sign is None else signer_of(sign)
    return keys.including(signer.key.public) if keys and signer else keys, signer


def image_set(
    given: str | Path | ImageSet, progress: Progress, *, split: str | None = None, prefer: Sequence[str] = ()
) -> ImageSet:
    """Return a labelled set, opened where a path is given: one of its splits, or the first there is of some."""
    from edgeplast_devices.images import ImageSet, open_images

    if isinstance(given, ImageSet):
        return given
    return open_images(path_of(given, "images", LABELLED), split, prefer=prefer, progress=progress)


def unlabelled(given: Any, progress: Progress) -> ImageSet:
    """Open one or several paths, or take one or several pictures as they are."""
    from edgeplast_devices.images import open_unlabelled
    from edgeplast_devices.images.in_memory import from_memory, is_picture

    one = isinstance(given, str | Path) or is_picture(given)
    if not one and not isinstance(given, list | tuple | np.ndarray):
        raise wrong_kind(given, "images", UNLABELLED)
    several = [given] if one else list(given)
    if not several:
        raise UsageError(f"images is empty: there is nothing to predict. Allowed: {UNLABELLED}.")
    if all(isinstance(each, str | Path) for each in several):
        return open_unlabelled([possible(each) for each in several], progress=progress)
    for i, each in enumerate(several):
        if not is_picture(each):
            raise wrong_kind(each, f"images[{i}]", UNLABELLED)
    return from_memory(several)


def splits_of(
    images: str | Path | Splits | ImageSet, options: TrainingOptions, also: OtherSets, progress: Progress
) -> Splits:
    """Return what a run learns from and is measured on, opened where paths are given.

    Raises:
        UsageError: something is of another kind, or two other sets have one name.
        InputError: a path cannot be used.
    """
    from dataclasses import replace

    from edgeplast_devices.images import ImageSet, Splits, open_splits, open_splits_without_labels

    if isinstance(images, ImageSet):
        images = Splits(images, None, None)
    elif not isinstance(images, Splits):
        opening = open_splits if options.labels == "given" else open_splits_without_labels
        path = path_of(images, "images", LABELLED)
        images = opening(path, seed=options.seed, exclude=options.exclude, progress=progress)
    return replace(images, also={**images.also, **other_sets(also, progress)})


def other_sets(also: OtherSets, progress: Progress) -> dict[str, ImageSet]:
    """Return other sets by name; of what has splits ``test``, else ``val``, else ``train``.

    Raises:
        UsageError: one is of another kind, or two have one name.
        InputError: a path cannot be used.
    """
    from edgeplast_devices.images import ImageSet, open_images

    allowed = "a list of folders, archives and opened sets, or a mapping of names to them"
    if isinstance(also, str | Path | ImageSet) or not isinstance(also, Mapping | Sequence):
        raise wrong_kind(also, "also", allowed)
    named = also.items() if isinstance(also, Mapping) else [(_name(each, i), each) for i, each in enumerate(also)]
    found: dict[str, ImageSet] = {}
    for name, given in named:
        if name in found:
            raise UsageError(f"--also {name} is given twice. Once is enough.")
        if not isinstance(given, ImageSet):
            given = open_images(path_of(given, "also", LABELLED), prefer=("test", "val"), progress=progress)
        found[name] = given
    return found


def _name(given: object, index: int) -> str:
    return str(given) if isinstance(given, str | Path) else f"set {index + 1}"
