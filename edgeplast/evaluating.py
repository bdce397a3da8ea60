"""The verb ``evaluate``: a bundle, or the file of a deployed model, and labelled images in; figures out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeplast.arguments import BUNDLE, path_of
from edgeplast.bundle import Bundle
from edgeplast.errors import UsageError
from edgeplast.evaluation import Evaluation
from edgeplast.given import image_set, with_adapter
from edgeplast.progress import Progress, silent
from edgeplast.stamps import kind_at

if TYPE_CHECKING:
    from edgeplast.trust.trusting import Trusted
    from edgeplast_devices.images import ImageSet, Unreadable


def evaluate(
    bundle: Bundle | str | Path,
    images: str | Path | ImageSet,
    *,
    adapter: str | Path | None = None,
    split: str | None = None,
    progress: Progress = silent,
    micro_batch: int = 4,
    threads: int | None = None,
    runtime: str = "auto",
    provider: str = "cpu",
    temperature: bool = True,
    unreadable: Unreadable | None = None,
    trusted: Trusted = None,
) -> Evaluation:
    """Measure a fresh or adapted bundle on labelled images; see :func:`edgeplast_devices.evaluating.evaluate`.

    Args:
        bundle: a bundle or its folder, or the ONNX file of a deployed model.
        images: a folder, archive or npz, or an opened set.
        adapter: file or folder of an adapter that is put on the bundle first; see :func:`edgeplast.detach`.
        split: ``train``, ``val`` or ``test`` where the data have splits; by default ``test``, else ``val``, else
            ``train``.
        progress: told of each batch.
        micro_batch: images that pass through the graph at once.
        threads: of the runtime; by default all cores this process may use.
        runtime: the build of onnxruntime: ``ort-training``, ``stock``, or ``auto`` for the one that is installed.
        provider: the execution provider.
        temperature: divide logits by the model's temperature, where it has one.
        unreadable: takes note of pictures that cannot be read.
        trusted: public keys of which one must have signed it; see :func:`adapt`.
    """
    from edgeplast_devices.evaluating import evaluate as evaluate_bundle
    from edgeplast_devices.evaluating import evaluate_deployed

    place = None if isinstance(bundle, Bundle) else path_of(bundle, "bundle", f"{BUNDLE}, or an ONNX file")
    deployed = place is not None and kind_at(place) == "file"
    if deployed and adapter is not None:
        raise UsageError(f"{place} is a deployed model, and an adapter belongs on a bundle. Give its base's folder.")
    pictures = partial(image_set, images, progress, split=split, prefer=("test", "val"))
    how: dict[str, Any] = {"micro_batch": micro_batch, "threads": threads, "runtime": runtime, "provider": provider}
    how |= {"temperature": temperature, "unreadable": unreadable, "progress": progress}
    if deployed:
        assert place is not None
        return evaluate_deployed(place, pictures(), **how, trusted=trusted)
    with with_adapter(bundle, adapter, trusted, progress=progress) as (opened, _):
        return evaluate_bundle(opened, pictures(), **how)
