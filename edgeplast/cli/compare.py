"""``edgeplast compare``: which plan learns best from the user's own pictures, found out by trying."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeplast.cli import bits
from edgeplast.cli.console import print_json, print_table, progress_bar, say
from edgeplast.cli.options import (
    MODEL_HELP,
    CheckpointOption,
    CropOption,
    ImageSizeOption,
    InterpolationOption,
    MeanOption,
    ModelKwargsOption,
    PretrainedOption,
    StdOption,
    budget_of,
    check_model,
    network_of,
    pictures_of,
    profile_of,
)
from edgeplast.comparison import PAGE, PLAN, Comparison
from edgeplast.errors import InputError, UsageError
from edgeplast.optimizers import IN_WORDS as OPTIMIZERS_IN_WORDS
from edgeplast.outputs import claim
from edgeplast.score_methods import check_scoring
from edgeplast.scores import DEFAULT_METHOD

TOLD_BY_RUNS = ("round ", "a first try")
"""How activities begin of which the contest says itself what they have shown."""


def compare(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    data: Annotated[Path, typer.Option(help="Labelled pictures like the device's; a test split is never looked at.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for plan, page, table and journal.")],
    also: Annotated[
        list[Path] | None,
        typer.Option(help="With --keep-head: other labelled pictures, of what must not be forgotten. Repeatable."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Peak resident memory of the device process, kept to in every run.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="For everything: scores, exports, runs.")] = 20.0,
    candidates: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: strategies of `edgeplast plan`, head, last-k (as many blocks as fit), or components "
            "joined by +, such as head,fc1,norm2+fc1,lora:8 (default: the usual ones that fit)."
        ),
    ] = None,
    checkpoint: CheckpointOption = None,
    pretrained: PretrainedOption = False,
    image_size: ImageSizeOption = None,
    model_kwargs: ModelKwargsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    interpolation: InterpolationOption = None,
    crop: CropOption = None,
    epochs: Annotated[int, typer.Option(help="That the device will train for; the most of a run here.")] = 4,
    classes: Annotated[
        str | None, typer.Option(help="Class names of the new head, comma-separated (default: the data's).")
    ] = None,
    keep_head: Annotated[bool, typer.Option("--keep-head", help="Start from the checkpoint's own head.")] = False,
    method: Annotated[
        str, typer.Option(help="Score to plan by; see `edgeplast score --list-methods`.")
    ] = DEFAULT_METHOD,
    pairs: Annotated[int, typer.Option(help="Most pairs of images to score on.")] = 64,
    optimizer: Annotated[str, typer.Option(help=f"{OPTIMIZERS_IN_WORDS}.")] = "adamw",
    batch: Annotated[int, typer.Option(help="Images per optimizer step.")] = 16,
    weight_bits: Annotated[int, typer.Option(help="Of frozen matrices: 32, 8 or 4.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the pictures that are held out, and of scoring.")] = 0,
    device: Annotated[str | None, typer.Option(help="Defaults of a device; see `edgeplast devices`.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the output, and an unfinished contest of something else.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Let the ways to train that fit a budget compete on your own pictures; it goes on where it was stopped."""
    from edgeplast.comparing.contest import check_minutes
    from edgeplast.comparing.contest import compare as run
    from edgeplast.comparing.workplace import check_also
    from edgeplast.planning.estimating import check_training

    claim(output, force=force, folder=True)
    check_model(model, checkpoint=checkpoint, pretrained=pretrained, image_size=image_size, model_kwargs=model_kwargs)
    pictures = pictures_of(mean, std, interpolation, crop)
    check_minutes(minutes)
    names = candidate_names(candidates)
    check_training(optimizer, batch)
    check_scoring((method,), pairs, "component")
    bits.check_bits(str(weight_bits))
    if epochs < 1:
        raise UsageError(f"--epochs {epochs} must be 1 or more.")
    check_also(also or (), keep_head=keep_head)
    budget = budget_of(memory, profile_of(device))
    if not data.exists():
        raise InputError(f"{data} does not exist. Give a folder, an archive or an npz of labelled pictures.")
    with progress_bar(as_json, doing="loading torch and timm", told_otherwise=TOLD_BY_RUNS) as progress:
        network = network_of(
            model,
            checkpoint=checkpoint,
            pretrained=pretrained,
            image_size=image_size,
            model_kwargs=model_kwargs,
            pictures=pictures,
            progress=progress,
        )
        found = run(
            network,
            data,
            budget,
            minutes=minutes,
            into=output,
            also=also or (),
            candidates=names,
            epochs=epochs,
            classes=tuple(name.strip() for name in classes.split(",") if name.strip()) if classes else None,
            keep_head=keep_head,
            method=method,
            pairs=pairs,
            optimizer=optimizer,
            batch_size=batch,
            weight_bits=weight_bits,
            seed=seed,
            force=force,
            progress=progress,
            notice=lambda text: say(text, err=True),
        )
    if as_json:
        print_json("comparison", found.to_json(), output)
        return
    show(found)
    say(f"\nWritten: {output / PAGE} to look at, and the plan.")
    say(f"Next: edgeplast export {model} … --plan {output / PLAN} -o bundle/")


def candidate_names(given: str | None) -> tuple[str, ...]:
    """Read ``--candidates``.

    Raises:
        UsageError: one is given twice, or a number in one means nothing.
    """
    from edgeplast.planning.strategies import check_strategy

    names = tuple(name.strip() for name in (given or "").split(",") if name.strip())
    if given is not None and not names:
        raise UsageError("--candidates is empty. Give some, such as head,focus,last-k, or leave it out.")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--candidates names {name} twice. Give each once.")
        if ":" in name:
            check_strategy(name, None)
    return names


def show(found: Comparison) -> None:
    """Print the table of a comparison, and what follows."""
    print_table("", found.columns, found.rows())
    say(f"\n{found.verdict}")
    for candidate in found.candidates:
        if candidate.outcome == "failed":
            say(f"{candidate.name} failed: {candidate.note}")
