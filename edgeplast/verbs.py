"""The verbs as users call them, from Python and through the command line: paths or objects in, nouns out.

Each opens what it was given and hands it to the room that does the work; rooms are imported when called, so the
device verbs never load torch and the offline verbs never load the device's runtime before they need it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgeplast.adaptation import Adaptation, EpochReport
from edgeplast.adapters import Adapter
from edgeplast.arguments import BUDGET, PLAN, SCORES, check_kind, path_of
from edgeplast.budget import Budget
from edgeplast.bundle import Bundle
from edgeplast.errors import InputError
from edgeplast.files import possible
from edgeplast.given import bundle_of, image_set, signed_bundle, splits_of, whom, with_adapter
from edgeplast.plans import Plan
from edgeplast.prepared_images import PreparedImages, drawn
from edgeplast.preprocessing import Preprocessing
from edgeplast.progress import Progress, silent, unheard
from edgeplast.run_files import of_adaptation
from edgeplast.scores import DEFAULT_METHOD, ScoreTable

if TYPE_CHECKING:
    import torch

    from edgeplast.given import OtherSets
    from edgeplast.recomputation import Recompute
    from edgeplast.training_artifacts import TrainingArtifacts
    from edgeplast.trust.signing import Signs
    from edgeplast.trust.trusting import Trusted
    from edgeplast_devices.images import ImageSet, Splits
    from edgeplast_devices.options import TrainingOptions
    from edgeplast_exporters.storing import FrozenCompute


def score(
    model: torch.nn.Module,
    images: str | Path | ImageSet,
    *,
    method: str = DEFAULT_METHOD,
    others: Sequence[str] = (),
    reference: str | Path | ImageSet | None = None,
    pairs: int = 64,
    seed: int = 0,
    device: str = "auto",
    granularity: str = "component",
    preprocessing: Preprocessing | None = None,
    progress: Progress = silent,
) -> ScoreTable:
    """Score every component of a vision model on images; see :func:`edgeplast.scoring.score`.

    Args:
        model: takes one batch of images and returns logits; not changed. What ``torch.compile`` or ``DataParallel`` put
            around it is taken off; a backbone without a head is given a fresh one.
        images: a folder, archive or npz of labelled images, or an opened set.
        method: what the table goes by; one of ``edgeplast.scoring.METHODS``.
        others: further methods to measure on the same images.
        reference: images of the source domain, for the first member of each pair.
        pairs: the most pairs, images or directions that a method uses.
        seed: of pairs, directions and drawn labels.
        device: ``auto`` (a CUDA device if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        granularity: ``component``; for a plain vision transformer also ``head`` or ``branch``.
        preprocessing: by default timm's data configuration of the model; a module that timm does not know needs one.
        progress: told of each batch.
    """
    from edgeplast.models import preprocessing_of, with_head
    from edgeplast.scoring import score as score_model
    from edgeplast.unwrapping import unwrapped
    from edgeplast_exporters.outlining import traced

    model = unwrapped(model)
    prepared = preprocessing or preprocessing_of(model)
    target = PreparedImages(image_set(images, progress), prepared, labels_for="scoring")
    model = with_head(model, len(target.classes))
    source = None if reference is None else PreparedImages(image_set(reference, progress), prepared)
    shape = (len(prepared.mean), *prepared.image_size)
    progress("reading the model's graph", 0, 0)
    found = traced(model, shape)  # what has no graph is refused before minutes of scoring
    return score_model(
        model,
        target,
        found,
        method=method,
        others=others,
        reference=source,
        pairs=pairs,
        seed=seed,
        device=device,
        granularity=granularity,
        progress=progress,
    )


def plan(
    scores: ScoreTable | str | Path,
    budget: Budget | None = None,
    *,
    strategy: str = "best",
    method: str | None = None,
    train: Sequence[str] | str | None = None,
    optimizer: str = "adamw",
    batch_size: int = 16,
    micro_batch_size: int | None = None,
    weight_bits: int = 8,
    component_weight_bits: Mapping[str, int] | None = None,
    classes: int | Sequence[str] | None = None,
    flops_per_second: float | None = None,
    progress: Progress = silent,
) -> Plan:
    """Choose what trains under a budget; see :func:`edgeplast.planning.plan`.

    Args:
        scores: a table or the file of one.
        budget: of the device; by default no limit.
        strategy: how to choose; one of ``edgeplast.planning.STRATEGIES``.
        method: which of the table's methods to go by; by default its main one.
        train: components by name, e.g. ``"attn:8-11,head"``; instead of a strategy.
        optimizer: ``adamw`` or ``sgd``.
        batch_size: images an optimizer step is computed from.
        micro_batch_size: images that pass through the graph at once; by default chosen.
        weight_bits: of frozen matrices: 32, 8 or 4.
        component_weight_bits: the same for components by name.
        classes: names of the new head, or how many; by default those of the scored images.
        flops_per_second: of the device, for the seconds of a step; by default a small one's.
        progress: told of what it walks through.
    """
    from edgeplast.planning import plan as plan_model

    table = scores if isinstance(scores, ScoreTable) else ScoreTable.read(path_of(scores, "scores", SCORES))
    check_kind(budget, Budget, "budget", BUDGET)
    speed = {} if flops_per_second is None else {"flops_per_second": flops_per_second}
    return plan_model(
        table,
        budget or Budget(),
        strategy=strategy,
        method=method,
        train=train,
        optimizer=optimizer,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        weight_bits=weight_bits,
        component_weight_bits=component_weight_bits,
        classes=classes,
        progress=progress,
        **speed,
    )


def export(
    model: torch.nn.Module,
    plan: Plan | str | Path,
    *,
    into: str | Path,
    classes: Sequence[str] | None = None,
    keep_head: bool = False,
    preprocessing: Preprocessing | None = None,
    frozen_compute: FrozenCompute = "fp32",
    merge_tokens: int = 0,
    images: str | Path | ImageSet | None = None,
    calibration_images: int = 64,
    seed: int = 0,
    alternatives: bool = False,
    force: bool = False,
    sign: Signs = None,
    progress: Progress = silent,
) -> Bundle:
    """Write the bundle for a device; see :func:`edgeplast_exporters.export`.

    Args:
        model: of timm's vision transformer family; not changed.
        plan: a plan or the file of one.
        into: the folder to write.
        classes: class names of the head; by default those of the images the model was scored on.
        keep_head: start from the model's own head instead of a fresh one; it must have as many outputs.
        preprocessing: by default timm's data configuration of the model.
        frozen_compute: ``"int8"``: frozen matrices before everything that trains multiply in integers.
        merge_tokens: in each block before everything that trains, so many tokens are merged into similar ones.
        images: a folder, archive or npz, or an opened set, to calibrate integers and 4-bit scales on.
        calibration_images: how many of them, at most.
        seed: of their choice.
        alternatives: write graphs of other sets too, among which ``adapt`` chooses with ``rescore``; see
            :func:`edgeplast.alternatives.alternatives`.
        force: replace what is there.
        sign: a private key, or its file, that signs the bundle.
        progress: told of each graph.
    """
    from edgeplast.alternatives import alternatives as alternatives_of
    from edgeplast.models import has_head, preprocessing_of, with_classes
    from edgeplast.unwrapping import unwrapped
    from edgeplast_exporters import export as export_model

    model = unwrapped(model)
    if keep_head and not has_head(model):
        raise InputError(
            "The model has no head to keep: its weights are those of a backbone alone. Leave out --keep-head "
            "(keep_head), and it starts with a fresh head for the classes of the bundle."
        )
    chosen = plan if isinstance(plan, Plan) else Plan.read(path_of(plan, "plan", PLAN))
    names = tuple(classes or chosen.classes)
    if len(names) < 2:
        raise InputError("A bundle needs the names of at least two classes. Give --classes, or score labelled images.")
    prepared = preprocessing or preprocessing_of(model)
    wanted = frozen_compute != "fp32" or any(c.weight_bits == 4 for c in chosen.components.values())
    _, signer = whom(None, sign)
    if merge_tokens:
        from edgeplast.merging import merge_tokens as merge

        model, chosen = merge(model, chosen, merge_tokens, keep_head=keep_head)
    bundle = export_model(
        model if keep_head else with_classes(model, len(names)),
        chosen,
        into=possible(into),
        classes=names,
        preprocessing=prepared,
        frozen_compute=frozen_compute,
        images=drawn(image_set(images, progress), prepared, calibration_images, seed)
        if wanted and images is not None
        else (),
        alternatives=alternatives_of(chosen) if alternatives else {},
        force=force,
        progress=progress,
    )
    if signer is not None:
        signer.sign_bundle(bundle.path, None, ())
    return bundle


def export_ort_training(
    bundle: Bundle | str | Path,
    *,
    into: str | Path,
    recompute: Recompute | None = None,
    weight_decay: float = 0.0,
    force: bool = False,
    trusted: Trusted = None,
    progress: Progress = silent,
) -> TrainingArtifacts:
    """Write the files of ONNX Runtime's own on-device training API; see
    :func:`edgeplast_exporters.ort_training.export_ort_training`.

    Args:
        bundle: a bundle or its folder, fresh or adapted.
        into: the folder to write.
        recompute: ``none``, ``selective`` or ``full``; by default what the plan says.
        weight_decay: of AdamW, on every parameter alike.
        force: replace what is there.
        trusted: public keys of which one must have signed the bundle; see :func:`adapt`.
        progress: told of bytes that are verified, and of each file.
    """
    from edgeplast_exporters.ort_training import export_ort_training as export_artifacts

    opened = bundle_of(bundle, trusted, progress)
    return export_artifacts(
        opened, into=possible(into), recompute=recompute, weight_decay=weight_decay, force=force, progress=progress
    )


def adapt(
    bundle: Bundle | str | Path,
    images: str | Path | Splits | ImageSet,
    *,
    into: str | Path,
    adapter: str | Path | None = None,
    also: OtherSets = (),
    budget: Budget | None = None,
    options: TrainingOptions | None = None,
    resume: bool = False,
    force: bool = False,
    trusted: Trusted = None,
    sign: Signs = None,
    progress: Progress = silent,
    epoch_done: Callable[[EpochReport], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Adaptation:
    """Fine-tune a bundle on images inside a budget; see :func:`edgeplast_devices.adapting.adapt`.

    Args:
        bundle: a bundle or its folder.
        images: a folder, archive or npz of labelled images, an opened set, or opened splits. Without a validation
            split one is made from the training images. With ``options.labels="none"`` any folder of pictures.
        into: folder for the adapted bundle.
        adapter: file or folder of an adapter that is put on the bundle first; see :func:`edgeplast.detach`.
        also: other labelled sets, measured before and after: what must not be forgotten. Paths or sets in a list, or by
            name; of what has splits ``test``, else ``val``, else ``train``. See ``options.keep_within``.
        budget: of this process; by default what the bundle was exported for, and ``Budget()`` for no limit.
        options: of the training; with ``resume`` by default those of the run that was interrupted.
        resume: go on with the unfinished run of ``into``, if there is one.
        force: replace what is there, an unfinished run included unless it is resumed.
        trusted: public keys, a file or a folder of them, of which one must have signed the bundle; nothing of it is
            parsed otherwise. By default no signature is asked for.
        sign: a private key, or its file, that signs the adapted bundle; it is trusted too.
        progress: told of each step.
        epoch_done: told of each epoch.
        notice: told what the images were taken for, what a user should know of a resumption or of a budget that nobody
            gave, and, before the first step, about how long it will take; None for nobody.

    Raises:
        UsageError: an argument is of another kind, such as a data set of torch's; for other errors see there.
    """
    from edgeplast_devices.adapting import adapt as adapt_bundle
    from edgeplast_devices.adapting import interrupted_options, refuse_taken
    from edgeplast_devices.guard import guard_for
    from edgeplast_devices.images import understood
    from edgeplast_devices.options import TrainingOptions

    check_kind(budget, Budget, "budget", BUDGET)
    check_kind(options, TrainingOptions, "options", "edgeplast.TrainingOptions")
    refuse_taken(possible(into), resume=resume, force=force)  # before the bundle is hashed and an archive unpacked
    options = options or (interrupted_options(possible(into)) if resume else None) or TrainingOptions()
    repeats = of_adaptation(bundle, images, into, also, budget, options, adapter=adapter, trusted=trusted, sign=sign)
    heard = notice or unheard
    with with_adapter(bundle, adapter, trusted, sign, progress) as (opened, seal):
        guard = guard_for(opened, budget, heard)
        with guard.standing():  # before the images are opened: a list of files can be the peak
            images = splits_of(images, options, also, progress)
            for line in understood(images):
                heard(line)
            return adapt_bundle(
                opened,
                images,
                into=possible(into),
                options=options,
                resume=resume,
                force=force,
                progress=progress,
                epoch_done=epoch_done,
                notice=notice,
                guard=guard,
                seal=seal,
                run_file=repeats,
            )


def deploy(
    bundle: Bundle | str | Path,
    into: str | Path,
    *,
    adapter: str | Path | None = None,
    temperature: bool = True,
    force: bool = False,
    trusted: Trusted = None,
    sign: Signs = None,
    progress: Progress = silent,
) -> Path:
    """Write the model as one ONNX file in float32; see :func:`edgeplast_devices.deploying.deploy`.

    Args:
        bundle: a bundle or its folder.
        into: the file to write.
        adapter: file or folder of an adapter that is put on it first; see :func:`edgeplast.detach`.
        temperature: let the model divide its logits by the bundle's temperature, where it has one.
        force: replace what is there.
        trusted: public keys of which one must have signed it; see :func:`adapt`.
        sign: a private key, or its file, that signs the model, in a file beside it; it is trusted too.
        progress: told of each parameter.
    """
    from edgeplast_devices.deploying import deploy as deploy_bundle

    with with_adapter(bundle, adapter, trusted, sign, progress) as (opened, seal):
        return deploy_bundle(opened, possible(into), temperature=temperature, force=force, progress=progress, seal=seal)


def detach(
    bundle: Bundle | str | Path,
    into: str | Path,
    *,
    force: bool = False,
    trusted: Trusted = None,
    sign: Signs = None,
    progress: Progress = silent,
) -> Adapter:
    """Write what an adapted bundle has learned as a small adapter; see :func:`edgeplast_devices.detaching.detach`.

    :func:`adapt`, :func:`edgeplast.evaluate` and :func:`deploy` put it on the bundle that it was adapted from, or on
    any other that was adapted from that: one base serves several tasks, each with classes of its own.

    Args:
        bundle: an adapted bundle or its folder.
        into: the folder to write: ``adapter_model.safetensors``, and ``adapter_config.json`` where PEFT can load it.
        force: replace what is there.
        trusted: public keys of which one must have signed the bundle; see :func:`adapt`.
        sign: a private key, or its file, that signs the adapter's file; it is trusted too.
        progress: told of bytes that are verified.
    """
    from edgeplast_devices.detaching import detach as detach_from

    opened, seal = signed_bundle(bundle, trusted, sign, progress)
    return detach_from(opened, possible(into), force=force, seal=seal)
