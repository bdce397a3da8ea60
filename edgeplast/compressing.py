"""The verbs that make a model smaller, as users call them: prune and choose bits before export, deploy in 8 bits.

Like :mod:`edgeplast.verbs`: paths or objects in, nouns out, rooms imported when called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeplast.adaptation import BeforeAfter
from edgeplast.arguments import LABELLED, PLAN, SCORES, path_of
from edgeplast.bundle import Bundle
from edgeplast.deployment import Deployment
from edgeplast.errors import InputError, UsageError
from edgeplast.files import possible, write_bytes
from edgeplast.given import with_adapter
from edgeplast.outputs import claim
from edgeplast.plans import Plan
from edgeplast.prepared_images import PreparedImages
from edgeplast.preprocessing import Preprocessing
from edgeplast.progress import Progress, silent
from edgeplast.scores import ScoreTable
from edgeplast.stored_files import signatures_beside

if TYPE_CHECKING:
    import torch

    from edgeplast.compression import Pruned
    from edgeplast.trust.signing import Signs
    from edgeplast.trust.trusting import Trusted
    from edgeplast_devices.images import ImageSet, Splits
    from edgeplast_exporters.held_out_accuracy import AccuracyTarget

_HELD_OUT_IMAGES = 256
"""Most images that an accuracy is measured on; one of them is 0.4 points."""


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
    ratios: Mapping[str, float] | None = None,
    importance: str = "taylor",
    steps: int = 1,
    distill_steps: int = 0,
    device: str = "auto",
    seed: int = 0,
    force: bool = False,
    progress: Progress = silent,
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
        ratios: component to the share of its units to take out, instead of what the worth says.
        importance: a key of ``edgeplast.compression.IMPORTANCES``.
        steps: rounds; after each, importances are measured anew.
        distill_steps: optimizer steps of distillation from ``model``, over all rounds; 0: none.
        device: to score and distill on.
        seed: of everything random.
        force: replace what is there.
        progress: told of each batch and step.
    """
    from edgeplast.compression import Target, write_pruned
    from edgeplast.compression import prune as prune_model
    from edgeplast.models import check_family, preprocessing_of, with_head
    from edgeplast.scoring import score as score_model
    from edgeplast.unwrapping import unwrapped
    from edgeplast_devices.images import ImageSet, open_images
    from edgeplast_exporters.latency import inference_seconds
    from edgeplast_exporters.outlining import traced

    target = Target(keep=keep, macs=macs, size_bytes=size_bytes, latency_seconds=latency_seconds)
    model = unwrapped(model)
    check_family(model)
    if into is not None:
        claim(possible(into), force=force, folder=True)
    if not isinstance(images, ImageSet):
        images = open_images(path_of(images, "images", LABELLED), progress=progress)
    pictures = PreparedImages(images, preprocessing or preprocessing_of(model))
    model = with_head(model, len(pictures.classes))
    if scores is None:
        progress("reading the model's graph", 0, 0)
        table = score_model(
            model,
            pictures,
            traced(model),
            method=method,
            pairs=pairs,
            granularity="head",
            seed=seed,
            device=device,
            progress=progress,
        )
    else:
        table = scores if isinstance(scores, ScoreTable) else ScoreTable.read(path_of(scores, "scores", SCORES))
    pruned = prune_model(
        model,
        pictures,
        target,
        scores=table,
        ratios=ratios,
        importance=importance,
        steps=steps,
        distill_steps=distill_steps,
        seed=seed,
        device=device,
        latency=partial(inference_seconds, progress=progress),
        progress=progress,
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
    from edgeplast.pruning_target import Target

    Target(keep=keep, macs=macs, size_bytes=size_bytes, latency_seconds=latency_seconds)


def choose_bits(
    model: torch.nn.Module,
    plan: Plan | str | Path,
    images: str | Path | ImageSet,
    *,
    size_bytes: int | None = None,
    max_accuracy_drop: float | None = None,
    classes: Sequence[str] | None = None,
    keep_head: bool = False,
    preprocessing: Preprocessing | None = None,
    calibration_images: int = 64,
    seed: int = 0,
    progress: Progress = silent,
) -> Plan:
    """Choose the bits of each frozen component; see :func:`edgeplast_exporters.automatic_bits.choose_bits`.

    The plan's own budget is kept: where float32 components would break its memory, none has more than 8 bits (or,
    of a plan made for 4, 4), and its disk counts as a size.

    Args:
        model: of timm's vision transformer family; not changed.
        plan: a plan or the file of one; what trains stays as it is.
        images: a folder, archive or npz of labelled images, or an opened set.
        size_bytes: the largest bundle; this or the next, or both.
        max_accuracy_drop: points of accuracy that may be lost on held-out images, by a logistic probe on the features
            (with ``keep_head`` by the model's own head).
        classes: as in ``export``.
        keep_head: as in ``export``.
        preprocessing: by default timm's data configuration of the model.
        calibration_images: most images to measure errors on, and to fit the probe on; up to 256 others are held out.
        seed: of their choice.
        progress: told of each image.

    Raises:
        BudgetError: the targets cannot be met; the message says what is possible.
        UsageError: no target, or one that means nothing; nothing is frozen.
        InputError: too few images.
    """
    import msgspec

    from edgeplast.drawing import draw_pictures
    from edgeplast.models import preprocessing_of, with_classes
    from edgeplast.planning import peak_of
    from edgeplast.unwrapping import unwrapped
    from edgeplast_devices.images import ImageSet, open_images
    from edgeplast_exporters.automatic_bits import choose_bits as choose
    from edgeplast_exporters.outlining import outlined

    model = unwrapped(model)
    planned = plan if isinstance(plan, Plan) else Plan.read(path_of(plan, "plan", PLAN))
    names = tuple(classes or planned.classes)
    if len(names) < 2:
        raise InputError("A bundle needs the names of at least two classes. Give --classes, or score labelled images.")
    if max_accuracy_drop is not None and not 0 <= max_accuracy_drop < 100:
        raise UsageError(f"--max-accuracy-drop {max_accuracy_drop:g} must be points of accuracy: 0 or more, below 100.")
    opened = images
    if not isinstance(opened, ImageSet):
        opened = open_images(path_of(opened, "images", LABELLED), progress=progress)
    prepared = PreparedImages(opened, preprocessing or preprocessing_of(model))
    held_out = 0 if max_accuracy_drop is None else _HELD_OUT_IMAGES
    order = draw_pictures(prepared, calibration_images + held_out, seed)
    if max_accuracy_drop is not None:  # both parts from all there is, where there is not enough for all of both
        calibration_images = min(calibration_images, len(order) // 2)
    first, rest = order[:calibration_images], order[calibration_images:]
    target = None
    if max_accuracy_drop is not None:
        target = _accuracy_target(prepared, first, rest, max_accuracy_drop, len(names) if keep_head else None)
    budget = planned.budget
    how: dict[str, Any] = {
        "images": [prepared.tensor(index) for index in first],
        "classes": names,
        "preprocessing": prepared.preprocessing,
        "size_bytes": min((b for b in (size_bytes, budget.disk_bytes) if b is not None), default=None),
        "accuracy": target,
        "progress": progress,
    }
    network = model if keep_head else with_classes(model, len(names))
    graph = outlined(network, planned.outline.model)[1]
    peaks: list[int] = []

    def fits(tried: Plan) -> bool:
        peaks.append(peak_of(tried, graph))
        return budget.memory_bytes is None or peaks[-1] <= budget.memory_bytes

    chosen = choose(network, planned, fits=fits, **how)
    return msgspec.structs.replace(chosen, predicted_peak_bytes=peaks[-1])


def _accuracy_target(
    pictures: PreparedImages, first: Sequence[int], rest: Sequence[int], most_points: float, outputs: int | None
) -> AccuracyTarget:
    """Return what accuracy is measured with; ``outputs`` of the model's own head where that is to be used."""
    import numpy as np
    import torch

    from edgeplast.scoring.heads import logistic_probe
    from edgeplast_exporters.held_out_accuracy import AccuracyTarget

    classes = len(pictures.classes)
    if classes < 2 or (outputs is not None and outputs != classes):
        raise InputError(
            f"The images have {classes} classes{'' if outputs is None else f' and the head has {outputs} outputs'}: "
            "no accuracy can be measured on them. Give images in folders by class, or a target by --size."
        )

    def probe(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weight, bias = logistic_probe(torch.from_numpy(features), torch.from_numpy(labels), classes)
        return weight.numpy(), bias.numpy()

    labels = np.asarray(pictures.labels, np.int64)
    return AccuracyTarget(
        most_points=most_points,
        labels=labels[list(first)],
        held_out=[pictures.tensor(index) for index in rest],
        held_out_labels=labels[list(rest)],
        probe=probe if outputs is None else None,
    )


def deploy_quantized(
    bundle: Bundle | str | Path,
    into: str | Path,
    images: str | Path | Splits,
    *,
    adapter: str | Path | None = None,
    calibration_images: int = 64,
    threads: int | None = None,
    seed: int = 0,
    temperature: bool = True,
    force: bool = False,
    trusted: Trusted = None,
    sign: Signs = None,
    progress: Progress = silent,
) -> Deployment:
    """Write the model as one ONNX file that computes its matrix products in 8 bits, and measure what that costs.

    Activation ranges are calibrated on training pictures, accuracy is measured before and after on others: ``test``,
    else ``val``, else a part cut from the training pictures. See :func:`edgeplast.quantizing.quantize`.

    Args:
        bundle: a bundle or its folder, usually adapted.
        into: the file to write.
        images: the device's own: a folder, archive or npz of labelled images, or opened splits.
        adapter: file or folder of an adapter that is put on the bundle first; see :func:`edgeplast.detach`.
        calibration_images: how many to calibrate on.
        threads: of the runtime; by default all usable cores.
        seed: of the pictures to calibrate on.
        temperature: let the model divide its logits by the bundle's temperature, where it has one.
        force: replace what is there.
        trusted: public keys, a file or a folder of them, of which one must have signed the bundle.
        sign: a private key, or its file, that signs the model; it is trusted too.
        progress: told of each parameter and picture.

    Raises:
        MissingExtraError: the onnx package is not installed.
        UsageError: ``into`` exists and ``force`` is not given, or no picture to calibrate on is asked for.
    """
    import tempfile

    from edgeplast.quantizing import check_installed, quantize
    from edgeplast_devices.deploying import deploy as deploy_bundle
    from edgeplast_devices.evaluating import evaluate_deployed
    from edgeplast_devices.images import Splits, open_splits

    claim(possible(into), force=force)
    check_installed()
    if not isinstance(images, Splits):
        images = open_splits(path_of(images, "images", LABELLED), seed=seed, progress=progress)
    measured_on, measured = next((n, s) for n in ("test", "val", "train") if (s := getattr(images, n)) is not None)
    attached = with_adapter(bundle, adapter, trusted, sign, progress)
    with tempfile.TemporaryDirectory() as folder, attached as (opened, seal):
        plain, integer = Path(folder) / "float.onnx", Path(folder) / "integer.onnx"
        deploy_bundle(opened, plain, temperature=temperature, progress=progress)
        before = evaluate_deployed(plain, measured, threads=threads, progress=progress)
        pictures = PreparedImages(images.train, opened.manifest.preprocessing)
        calibrated, kept_float = quantize(
            plain, integer, pictures, most=calibration_images, seed=seed, progress=progress
        )
        after = evaluate_deployed(integer, measured, threads=threads, progress=progress)
        write_bytes(Path(into), integer.read_bytes())
        if seal is not None:
            seal(Path(into))
        else:
            signatures_beside(Path(into)).unlink(missing_ok=True)
    return Deployment(
        output=str(into),
        bytes=Path(into).stat().st_size,
        weight_bits=8,
        calibrated_on=calibrated,
        measured_on=measured_on,
        images=after.images,
        kept_float=kept_float,
        accuracy=BeforeAfter(before=before.accuracy, after=after.accuracy),
    )
