"""The verbs that make a model smaller, as users call them: prune before export, deploy in 8 bits.

Like :mod:`edgeplast.verbs`: paths or objects in, nouns out, rooms imported when called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeplast.adaptation import BeforeAfter
from edgeplast.bundle import Bundle
from edgeplast.deployment import Deployment
from edgeplast.files import refuse_existing, write_bytes
from edgeplast.preprocessing import Preprocessing
from edgeplast.progress import Progress, silent
from edgeplast.scores import ScoreTable
from edgeplast.verbs import PreparedImages

if TYPE_CHECKING:
    import torch

    from edgeplast.compression import Pruned
    from edgeplast_devices.images import ImageSet, Splits


def prune(
    model: torch.nn.Module,
    images: str | Path | ImageSet,
    *,
    into: str | Path | None = None,
    keep: float | None = None,
    macs: int | None = None,
    size_bytes: int | None = None,
    latency_seconds: float | None = None,
    scores: ScoreTable | str | Path | None = None,
    method: str = "plasticity",
    pairs: int = 64,
    preprocessing: Preprocessing | None = None,
    device: str = "auto",
    seed: int = 0,
    force: bool = False,
    progress: Progress = silent,
    **how: Any,
) -> Pruned:
    """Take out of a model what is worth least; see :func:`edgeplast.compression.prune`.

    Args:
        model: of timm's vision transformer family; not changed.
        images: a folder, archive or npz of images, or an opened set; labels are not looked at.
        into: a folder to write the pruned model to; None: it is only returned.
        keep: target as a share of the multiply–accumulates; one of these four.
        macs: as multiply–accumulates of one image.
        size_bytes: as bytes of float32 weights.
        latency_seconds: as the time of one image on this machine.
        scores: a table or the file of one; by default the model's heads and layers are scored here, on the images.
        method: the score to go by, where none are given.
        pairs: most pairs of images to score on.
        preprocessing: by default timm's data configuration of the model.
        device: to score and distill on.
        seed: of everything random.
        force: replace what is there.
        progress: told of each batch and step.
        **how: ``ratios``, ``importance``, ``steps``, ``distill_steps``.
    """
    from edgeplast.compression import Target, write_pruned
    from edgeplast.compression import prune as prune_model
    from edgeplast.models import preprocessing_of
    from edgeplast.scoring import score as score_model
    from edgeplast_devices.images import open_images
    from edgeplast_exporters.latency import inference_seconds

    target = Target(keep=keep, macs=macs, size_bytes=size_bytes, latency_seconds=latency_seconds)
    if into is not None:
        refuse_existing(Path(into), force=force)
    if isinstance(images, str | Path):
        images = open_images(Path(images), progress=progress)
    pictures = PreparedImages(images, preprocessing or preprocessing_of(model))
    if scores is None:
        table = score_model(
            model,
            pictures,
            method=method,
            pairs=pairs,
            granularity="head",
            seed=seed,
            device=device,
            progress=progress,
        )
    else:
        table = scores if isinstance(scores, ScoreTable) else ScoreTable.read(Path(scores))
    pruned = prune_model(
        model,
        pictures,
        target,
        scores=table,
        seed=seed,
        device=device,
        latency=inference_seconds,
        progress=progress,
        **how,
    )
    if into is not None:
        write_pruned(pruned, Path(into), force=force)
    return pruned


def check_target(
    *,
    keep: float | None = None,
    macs: int | None = None,
    size_bytes: int | None = None,
    latency_seconds: float | None = None,
) -> None:
    """Raise unless exactly one target of :func:`prune` is given and in range, before anything is loaded."""
    from edgeplast.compression.targets import Target

    Target(keep=keep, macs=macs, size_bytes=size_bytes, latency_seconds=latency_seconds)


def deploy_quantized(
    bundle: Bundle | str | Path,
    into: str | Path,
    images: str | Path | Splits,
    *,
    calibration_images: int = 64,
    threads: int | None = None,
    seed: int = 0,
    force: bool = False,
    progress: Progress = silent,
) -> Deployment:
    """Write the model as one ONNX file that computes its matrix products in 8 bits, and measure what that costs.

    Activation ranges are calibrated on training pictures, accuracy is measured before and after on others: ``test``,
    else ``val``, else a part cut from the training pictures. See :func:`edgeplast.quantizing.quantize`.

    Args:
        bundle: a bundle or its folder, usually adapted.
        into: the file to write.
        images: the device's own: a folder, archive or npz of labelled images, or opened splits.
        calibration_images: how many to calibrate on.
        threads: of the runtime; by default all usable cores.
        seed: of the pictures to calibrate on.
        force: replace what is there.
        progress: told of each parameter and picture.

    Raises:
        MissingExtraError: the onnx package is not installed.
        UsageError: ``into`` exists and ``force`` is not given, or no picture to calibrate on is asked for.
    """
    import tempfile

    from edgeplast.quantizing import check_installed, quantize
    from edgeplast_devices.deploying import deploy as deploy_bundle
    from edgeplast_devices.evaluating import evaluate_deployed
    from edgeplast_devices.images import open_splits

    refuse_existing(Path(into), force=force)
    check_installed()
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(Path(bundle))
    manifest = opened.manifest
    if isinstance(images, str | Path):
        images = open_splits(Path(images), seed=seed, progress=progress)
    measured_on, measured = next((n, s) for n in ("test", "val", "train") if (s := getattr(images, n)) is not None)
    with tempfile.TemporaryDirectory() as folder:
        plain, integer = Path(folder) / "float.onnx", Path(folder) / "integer.onnx"
        deploy_bundle(opened, plain, progress=progress)
        before = evaluate_deployed(plain, measured, threads=threads, progress=progress)
        pictures = PreparedImages(images.train, manifest.preprocessing)
        calibrated, kept_float = quantize(
            plain, integer, pictures, most=calibration_images, seed=seed, progress=progress
        )
        after = evaluate_deployed(integer, measured, threads=threads, progress=progress)
        write_bytes(Path(into), integer.read_bytes())
    return Deployment(
        model=str(into),
        bytes=Path(into).stat().st_size,
        weight_bits=8,
        calibrated_on=calibrated,
        measured_on=measured_on,
        images=after.images,
        kept_float=kept_float,
        accuracy=BeforeAfter(before=before.accuracy, after=after.accuracy),
    )
