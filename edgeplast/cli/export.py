"""``edgeplast export``: from a model to a bundle; scores and plans first unless a plan is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeplast.bundle import Bundle
from edgeplast.cli import bits, ort_training
from edgeplast.cli.compare import TOLD_BY_RUNS
from edgeplast.cli.console import print_json, print_table, progress_bar, say
from edgeplast.cli.options import (
    MODEL_HELP,
    CheckpointOption,
    CropOption,
    DeviceOption,
    ExcludeOption,
    ExpiresOption,
    ImageSizeOption,
    InterpolationOption,
    MeanOption,
    ModelKwargsOption,
    PretrainedOption,
    SignOption,
    StdOption,
    TrainOption,
    TrustedOption,
    budget_of,
    check_model,
    labelled_images,
    network_of,
    pictures_of,
    profile_of,
    signer_with,
)
from edgeplast.errors import UsageError, one_of
from edgeplast.optimizers import IN_WORDS as OPTIMIZERS_IN_WORDS
from edgeplast.outputs import claim
from edgeplast.plans import Plan
from edgeplast.pruning_target import check_rounds
from edgeplast.score_methods import check_scoring
from edgeplast.scores import DEFAULT_METHOD
from edgeplast.units import exact_bytes, format_bytes, parse_bytes

if TYPE_CHECKING:
    from edgeplast.outline import Outline
    from edgeplast_exporters.storing import FrozenCompute


def export(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(help=MODEL_HELP),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Bundle folder to write.")],
    data: Annotated[Path | None, typer.Option(help="Images to score on; their class names make the new head.")] = None,
    checkpoint: CheckpointOption = None,
    pretrained: PretrainedOption = False,
    image_size: ImageSizeOption = None,
    model_kwargs: ModelKwargsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    interpolation: InterpolationOption = None,
    crop: CropOption = None,
    plan: Annotated[
        Path | None, typer.Option(help="A plan from `edgeplast plan`, instead of scoring and planning now.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="Peak resident memory of the device process, e.g. 256MiB.")] = None,
    disk: Annotated[str | None, typer.Option(help="Largest bundle, e.g. 30MiB.")] = None,
    time_per_step: Annotated[float | None, typer.Option(help="Wanted seconds per optimizer step.")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Class names of the new head, comma-separated (default: the data's).")
    ] = None,
    keep_head: Annotated[bool, typer.Option("--keep-head", help="Start from the checkpoint's own head.")] = False,
    method: Annotated[
        str, typer.Option(help="Score to plan by; see `edgeplast score --list-methods`.")
    ] = DEFAULT_METHOD,
    pairs: Annotated[int, typer.Option(help="Most pairs of images to score on.")] = 64,
    strategy: Annotated[str, typer.Option(help="How to choose what trains; see `edgeplast plan --help`.")] = "best",
    train: TrainOption = None,
    choose: Annotated[
        str,
        typer.Option(
            help="planned, or measured: the usual plans compete on --data first, as in `edgeplast compare`, which "
            "leaves a page in OUTPUT.comparison."
        ),
    ] = "planned",
    minutes: Annotated[float, typer.Option(help="With --choose measured: of the contest.")] = 20.0,
    optimizer: Annotated[str, typer.Option(help=f"{OPTIMIZERS_IN_WORDS}.")] = "adamw",
    batch: Annotated[int, typer.Option(help="Images per optimizer step.")] = 16,
    weight_bits: Annotated[str, typer.Option(help=bits.EXPORT_HELP)] = "8",
    size: Annotated[
        str | None, typer.Option(help="With --weight-bits auto: the largest bundle, all its files, e.g. 8MiB.")
    ] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(help="With --weight-bits auto: points of accuracy that may be lost on held-out images of --data."),
    ] = None,
    frozen_compute: Annotated[
        str,
        typer.Option(
            help="fp32, or int8: frozen layers before everything that trains multiply in integers, "
            "calibrated on --data; faster, less exact."
        ),
    ] = "fp32",
    calibration_images: Annotated[int, typer.Option(help="Most images to calibrate on.")] = 64,
    prune: Annotated[
        float | None, typer.Option(help="Prune first, to this share of the multiply–accumulates; needs --data.")
    ] = None,
    distill_steps: Annotated[int, typer.Option(help="With --prune: steps of distillation to recover.")] = 0,
    alternatives: Annotated[
        bool,
        typer.Option(
            "--alternatives",
            help="Write graphs of other sets too, among which `adapt --rescore` chooses by its scores.",
        ),
    ] = False,
    merge_tokens: Annotated[
        int,
        typer.Option(
            help="Tokens that each block before what trains merges into similar ones (plain vision transformers), e.g. "
            "8: less work in all later blocks."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the image pairs and of the images calibrated on.")] = 0,
    device: DeviceOption = None,
    sign: SignOption = None,
    trusted: TrustedOption = None,
    expires: ExpiresOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output folder.")] = False,
    exclude: ExcludeOption = None,
    form: Annotated[str, typer.Option("--format", help=ort_training.FORMAT_HELP)] = "bundle",
    recompute: Annotated[str | None, typer.Option(help=ort_training.RECOMPUTE_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Score a model, plan what trains, check the graphs against torch, and write a bundle for the device."""
    from edgeplast import compressing
    from edgeplast.comparing.contest import check_minutes
    from edgeplast.pipeline import check_alternatives, check_choice, check_way, contest_of, make_bundle
    from edgeplast.planning.estimating import check_training
    from edgeplast.planning.strategies import check_strategy

    claim(output, force=force, folder=True)
    ort_training.check_format(form, recompute, signed=sign is not None, measured=choose == "measured")
    if ort_training.is_bundle(model, form):
        ort_training.refuse_plan(context, model)
        with progress_bar(as_json, doing=f"opening {model}") as progress:
            opened = Bundle.open(model, trusted=trusted, progress=progress)
        ort_training.write_artifacts(opened, output, recompute, force=force, as_json=as_json)
        return
    if trusted is not None:
        raise UsageError(
            f"--trusted asks who signed a bundle, and {model} is exported as a model. {ort_training.OF_BUNDLE}"
        )
    check_model(model, checkpoint=checkpoint, pretrained=pretrained, image_size=image_size, model_kwargs=model_kwargs)
    pictures = pictures_of(mean, std, interpolation, crop)
    check_way(planned=plan is not None, pictured=data is not None, keep=prune, distill_steps=distill_steps)
    check_choice(choose, strategy, train, planned=plan is not None)
    if choose == "measured":
        if exclude:
            raise UsageError("--choose measured opens the pictures itself, without --exclude. Leave one of them out.")
        check_minutes(minutes)
        claim(contest_of(output), force=force, folder=True)
    target = size is not None or max_accuracy_drop is not None
    automatic = bits.check_auto(weight_bits, target=target, data=data is not None, frozen_compute=frozen_compute)
    check_alternatives(alternatives, automatic=automatic, train=train, form=form)
    size_bytes = None if size is None else parse_bytes(size)
    compute = _compute_of(frozen_compute, data)
    if prune is not None:
        compressing.check_target(keep=prune)
        check_rounds(1, distill_steps)
    signer = signer_with(sign, expires)
    names = tuple(name.strip() for name in classes.split(",") if name.strip()) if classes else None
    budget = budget_of(memory, profile_of(device), disk=disk, step_seconds=time_per_step)
    given = None if plan is None else Plan.read(plan)
    if given is None:
        check_scoring((method,), pairs, "component")
        check_training(optimizer, batch)
        check_strategy(strategy, train)
        bits.check_bits("8" if automatic else weight_bits)
    trained_bits = _bits_for(choose, "8" if automatic else weight_bits)
    doing = f"opening {model if data is None else data}"
    with ort_training.bundle_before(output, form) as into:
        with progress_bar(as_json, doing=doing, told_otherwise=TOLD_BY_RUNS) as progress:
            contested = choose == "measured"  # its runs open the pictures themselves, and it says what they are
            images = None
            if data is not None and not contested:
                images = labelled_images(data, exclude=exclude or (), progress=progress)
            network = network_of(
                model,
                checkpoint=checkpoint,
                pretrained=pretrained,
                image_size=image_size,
                model_kwargs=model_kwargs,
                pictures=pictures,
                progress=progress,
            )
            bundle = make_bundle(
                network,
                data if contested else images,
                budget,
                into=into,
                plan=given,
                classes=names,
                keep_head=keep_head,
                method=method,
                pairs=pairs,
                strategy=strategy,
                train=train,
                choose=choose,
                minutes=minutes,
                optimizer=optimizer,
                batch_size=batch,
                weight_bits=trained_bits,
                size_bytes=size_bytes,
                max_accuracy_drop=max_accuracy_drop,
                frozen_compute=compute,
                calibration_images=calibration_images,
                keep=prune,
                distill_steps=distill_steps,
                alternatives=alternatives,
                merge_tokens=merge_tokens,
                seed=seed,
                force=force,
                sign=signer,
                progress=progress,
                notice=lambda text: say(text, err=True),
            )
        if form == "ort-training":
            ort_training.write_artifacts(bundle, output, recompute, force=force, as_json=as_json)
            return
    _show(bundle, as_json)


def _bits_for(choose: str, given: str) -> int | Callable[[Outline], tuple[int, Mapping[str, int]]]:
    """Return the bits that planning takes; a contest takes one number."""
    if choose == "planned":
        return lambda outline: bits.weight_bits_of(given, outline)
    if not given.isdecimal():
        raise UsageError(f"--choose measured takes one number for --weight-bits, 32, 8 or 4, or auto; given: {given}.")
    return int(given)


def _compute_of(given: str, data: Path | None) -> FrozenCompute:
    if given == "int8":
        if data is None:
            raise UsageError("--frozen-compute int8 is calibrated on images. Give them with --data.")
        return "int8"
    if given == "fp32":
        return "fp32"
    raise one_of("--frozen-compute", given, ("fp32", "int8"))


def _show(bundle: Bundle, as_json: bool) -> None:
    plan = bundle.manifest.plan
    if as_json:
        content = {
            "model": bundle.manifest.model,
            "bytes": bundle.bytes,
            "trainable": plan.trainable,
            "trainable_parameters": plan.trainable_parameters,
            "predicted_peak_bytes": plan.predicted_peak_bytes,
            "tiers": [tier.name for tier in bundle.manifest.ladder],
            "alternatives": [tier.name for tier in bundle.manifest.alternatives],
        }
        print_json("bundle", content, bundle.path)
        return
    total = sum(c.parameters for c in plan.components.values())
    shown = ", ".join(plan.trainable[:6]) + (f" and {len(plan.trainable) - 6} more" if len(plan.trainable) > 6 else "")
    rows = [
        ("model", f"{bundle.manifest.model}, {len(bundle.manifest.classes)} classes"),
        ("trains", f"{plan.trainable_parameters:,} of {total:,} parameters: {shown}"),
        ("predicted peak", f"{format_bytes(plan.predicted_peak_bytes)} (budget: {plan.budget})"),
        ("tiers", ", ".join(tier.name for tier in bundle.manifest.ladder)),
        ("size", format_bytes(bundle.bytes)),
    ]
    if bundle.manifest.alternatives:
        rows.insert(-1, ("alternatives", ", ".join(tier.name for tier in bundle.manifest.alternatives)))
    limit = plan.budget.memory_bytes
    memory = "" if limit is None else f" --memory {exact_bytes(limit)}"
    print_table(
        "",
        ("exported", ""),
        rows,
        "\n".join(plan.notes)
        + f"\nWritten: {bundle.path}  (next: edgeplast adapt {bundle.path} --data images/{memory} -o adapted/)",
    )
