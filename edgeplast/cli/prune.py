"""``edgeplast prune``: from a model to a smaller one, by what its heads and hidden units are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgeplast.cli.console import print_json, progress_bar, say
from edgeplast.cli.inspect import show_pruned
from edgeplast.cli.options import (
    MODEL_HELP,
    CheckpointOption,
    CropOption,
    ExcludeOption,
    ImageSizeOption,
    InterpolationOption,
    MeanOption,
    ModelKwargsOption,
    PretrainedOption,
    StdOption,
    check_model,
    labelled_images,
    network_of,
    pictures_of,
    read_ratios,
)
from edgeplast.outputs import claim
from edgeplast.pruning_target import check_importance, check_rounds
from edgeplast.score_methods import check_scoring
from edgeplast.torch_devices import check_device
from edgeplast.units import parse_bytes, parse_count, parse_seconds


def prune(
    model: Annotated[
        str,
        typer.Argument(help=MODEL_HELP),
    ],
    data: Annotated[Path, typer.Option(help="Images to judge by; their labels are not looked at.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pruned model.")],
    checkpoint: CheckpointOption = None,
    pretrained: PretrainedOption = False,
    image_size: ImageSizeOption = None,
    model_kwargs: ModelKwargsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    interpolation: InterpolationOption = None,
    crop: CropOption = None,
    keep: Annotated[float | None, typer.Option(help="Share of the multiply–accumulates to keep, e.g. 0.7.")] = None,
    macs: Annotated[str | None, typer.Option(help="Multiply–accumulates of one image to keep, e.g. 800M.")] = None,
    size: Annotated[str | None, typer.Option(help="Bytes of float32 weights to keep, e.g. 16MiB.")] = None,
    latency: Annotated[str | None, typer.Option(help="Time of one image on this machine, e.g. 15ms.")] = None,
    ratio: Annotated[
        list[str] | None,
        typer.Option(help="COMPONENT=SHARE to take out of one component, repeatable: blocks.3.fc1=0.5."),
    ] = None,
    prune_steps: Annotated[int, typer.Option(help="Rounds of pruning, importances measured anew in each.")] = 1,
    distill_steps: Annotated[
        int, typer.Option(help="Steps of distillation from the unpruned model on the images; 0: none.")
    ] = 0,
    importance: Annotated[str, typer.Option(help="torch-pruning's importance: taylor or magnitude.")] = "taylor",
    method: Annotated[
        str, typer.Option(help="Score that guides; see `edgeplast score --list-methods`.")
    ] = "plasticity",
    pairs: Annotated[int, typer.Option(help="Most pairs of images to score on.")] = 64,
    device: Annotated[
        str, typer.Option("--torch-device", help="For scoring and distilling: auto, cpu, cuda or cuda:N.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of pairs, pictures and projections.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the output folder.")] = False,
    exclude: ExcludeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Take out the attention heads and hidden units that are worth least; components that are smooth give more."""
    from edgeplast import compressing

    check_model(model, checkpoint=checkpoint, pretrained=pretrained, image_size=image_size, model_kwargs=model_kwargs)
    pictures = pictures_of(mean, std, interpolation, crop)
    target: dict[str, Any] = {
        "keep": keep,
        "macs": None if macs is None else parse_count(macs),
        "size_bytes": None if size is None else parse_bytes(size),
        "latency_seconds": None if latency is None else parse_seconds(latency),
    }
    compressing.check_target(**target)
    ratios = read_ratios(ratio)
    check_rounds(prune_steps, distill_steps)
    check_importance(importance)
    check_scoring((method,), pairs, "head")
    check_device(device)
    claim(output, force=force, folder=True)
    with progress_bar(as_json, doing=f"opening {data}") as progress:
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
        pruned = compressing.prune(
            network,
            images,
            into=output,
            **target,
            ratios=ratios,
            steps=prune_steps,
            distill_steps=distill_steps,
            importance=importance,
            method=method,
            pairs=pairs,
            device=device,
            seed=seed,
            force=force,
            progress=progress,
        )
    if as_json:
        print_json("pruned model", pruned.record.to_json(), output)
        return
    show_pruned(pruned.record)
    say(f"\nWritten: {output}  (next: edgeplast export {output} --data images/ -o bundle/)")
