"""``edgeplast score``: how plastic each component of a model is, by one method or several."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from edgeplast.cli.console import print_json, progress_bar, say
from edgeplast.cli.options import (
    MODEL_HELP,
    AdapterOption,
    CheckpointOption,
    CropOption,
    DeviceOption,
    ExcludeOption,
    ImageSizeOption,
    InterpolationOption,
    MeanOption,
    ModelKwargsOption,
    PretrainedOption,
    ProviderOption,
    RuntimeOption,
    StdOption,
    TrustedOption,
    budget_of,
    check_model,
    given_options,
    labelled_images,
    network_of,
    pictures_of,
    profile_of,
    provider_of,
    threads_of,
    trusted_of,
)
from edgeplast.errors import UsageError
from edgeplast.medians import medians
from edgeplast.outputs import claim
from edgeplast.progress import silent
from edgeplast.score_methods import METHOD_FACTS, check_scoring
from edgeplast.scores import DEFAULT_METHOD, ScoreTable
from edgeplast.scoring_bundles import is_bundle, score_bundle
from edgeplast.torch_devices import check_device
from edgeplast.units import format_bytes

_BAR_CELLS, _TOP = 24, 20

_OF_MODELS = (
    "reference", "checkpoint", "pretrained", "image_size", "model_kwargs", "mean", "std", "interpolation", "crop",
    "granularity", "torch_device",
)  # fmt: skip
_OF_BUNDLES = ("adapter", "memory", "threads", "runtime", "provider", "device", "trusted")


def score(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(help=f"{MODEL_HELP} On a device: the folder of a bundle, fresh or adapted."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Images to score on: a folder, archive or npz.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Scores to write, e.g. scores.json; of a bundle if you like.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Images of the source domain; pairs then take one of each set.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help=f"How to score (default: {DEFAULT_METHOD}), repeatable; the first is what planning uses."),
    ] = None,
    list_methods: Annotated[bool, typer.Option("--list-methods", help="List all methods and leave.")] = False,
    checkpoint: CheckpointOption = None,
    pretrained: PretrainedOption = False,
    image_size: ImageSizeOption = None,
    model_kwargs: ModelKwargsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    interpolation: InterpolationOption = None,
    crop: CropOption = None,
    pairs: Annotated[int, typer.Option(help="Most pairs of images; fewer if the ranking settles.")] = 64,
    granularity: Annotated[
        str, typer.Option(help="component; of a plain ViT also head, or branch (plasticity-branch alone).")
    ] = "component",
    torch_device: Annotated[str, typer.Option("--torch-device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    adapter: AdapterOption = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Of a bundle: peak resident memory, e.g. 256MiB (default: the bundle's), or none."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Of the runtime (default: all usable cores).", min=1)] = None,
    runtime: RuntimeOption = "auto",
    provider: ProviderOption = None,
    device: DeviceOption = None,
    trusted: TrustedOption = None,
    seed: Annotated[int, typer.Option(help="Of pairs, directions and drawn labels.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file.")] = False,
    exclude: ExcludeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score the components of a model on images: which answer a change of input with a large change of output."""
    if list_methods:
        _list_methods(as_json)
        return
    if model is not None and is_bundle(model):
        _refuse_options(context, _OF_MODELS, f"{model} is a bundle, which knows its model, weights and preprocessing")
        if data is None:
            raise UsageError("edgeplast score BUNDLE needs --data; --list-methods alone lists the methods.")
        main, *others = method or [DEFAULT_METHOD]
        check_scoring((main, *others), pairs, granularity)
        if output is not None:
            claim(output, force=force)
        profile = profile_of(device)
        with progress_bar(as_json, doing=f"opening {model}") as progress:
            table = score_bundle(
                model,
                data,
                adapter=adapter,
                method=main,
                others=others,
                pairs=pairs,
                seed=seed,
                exclude=exclude or (),
                budget=None if memory is None and profile is None else budget_of(memory, profile),
                threads=threads_of(threads, profile),
                runtime=runtime,
                provider=provider_of(provider, profile),
                trusted=trusted_of(trusted, profile),
                progress=progress,
                notice=lambda text: say(text, err=True),
            )
        _finish(table, output, as_json)
        return
    if model is None or data is None or output is None:
        raise UsageError("edgeplast score needs MODEL, --data and -o; --list-methods alone lists the methods.")
    _refuse_options(context, _OF_BUNDLES, f"{model} is no bundle but a model, which torch scores")
    main, *others = method or [DEFAULT_METHOD]
    check_scoring((main, *others), pairs, granularity)
    check_device(torch_device)
    check_model(model, checkpoint=checkpoint, pretrained=pretrained, image_size=image_size, model_kwargs=model_kwargs)
    pictures = pictures_of(mean, std, interpolation, crop)
    first_process = int(os.environ.get("RANK", "0")) == 0  # under torchrun one process speaks and writes
    if first_process:
        claim(output, force=force)
    from edgeplast import verbs
    from edgeplast_devices.images import open_images

    with progress_bar(as_json, doing=f"opening {data}") if first_process else nullcontext(silent) as progress:
        images = labelled_images(data, exclude=exclude or (), quiet=not first_process, progress=progress)
        source = None if reference is None else open_images(reference, progress=progress)
        network = network_of(
            model,
            checkpoint=checkpoint,
            pretrained=pretrained,
            image_size=image_size,
            model_kwargs=model_kwargs,
            pictures=pictures,
            progress=progress,
        )
        table = verbs.score(
            network,
            images,
            reference=source,
            method=main,
            others=others,
            pairs=pairs,
            seed=seed,
            device=torch_device,
            granularity=granularity,
            progress=progress,
        )
    if first_process:
        _finish(table, output, as_json)


def _refuse_options(context: typer.Context, names: Sequence[str], why: str) -> None:
    if given := given_options(context, names):
        shown = ", ".join(f"--{name.replace('_', '-')}" for name in names if name in given)
        raise UsageError(f"{why}. Leave out {shown}.")


def _finish(table: ScoreTable, output: Path | None, as_json: bool) -> None:
    if output is not None:
        table.write(output)
    if as_json:
        print_json("scores", table.to_json(), output)
    else:
        _show(table, output)


def _list_methods(as_json: bool) -> None:

    if as_json:
        print_json("score methods", {"methods": {name: facts._asdict() for name, facts in METHOD_FACTS.items()}})
        return
    for name, m in METHOD_FACTS.items():
        needs = "" if m.needs == "pictures" else f"; needs {'labels' if m.needs == 'labels' else 'no pictures'}"
        only = "; plain vision transformers only" if m.plain else ""
        say(f"{name:<21} {m.explanation}", hanging=22)
        say(f"{'':<21} cost: {m.cost}{needs}{only}")


def _show(table: ScoreTable, output: Path | None) -> None:
    entries, order = table.components, table.ranking()
    top, tied = max((e.score for e in entries.values()), default=0.0), {upper for upper, _ in table.ties()}
    rows = [
        (
            name,
            bar(entries[name].score, top),
            f"{entries[name].score:.4g}",
            f"{entries[name].standard_error:.2g}",
            "~" if name in tied else "",
            f"{entries[name].parameters:,}",
        )
        for name in order[:_TOP]
    ]
    more = f"… and {len(order) - _TOP} more. " if len(order) > _TOP else ""
    columns = ("component", "", "score", "std. error", "", "parameters")
    _print_bars(f"{table.outline.model} by {table.method}", columns, rows)
    say(f"{more}~: cannot be told apart from the next one.\n")
    middle = medians({name: entry.score for name, entry in entries.items()}, _kind_in(table))
    highest = max(middle.values(), default=0.0)
    typical = [(kind, bar(value, highest), f"{value:.4g}") for kind, value in middle.items()]
    _print_bars("median of each type", ("type", "", "score"), typical)
    for note in (*_agreement(table), *table.notes):
        say(note)
    if (memory := table.memory) is not None:
        allowed = "no limit" if memory.budget_bytes is None else format_bytes(memory.budget_bytes)
        enforced = "" if memory.enforced_by == "nothing" else f", enforced by the {memory.enforced_by}"
        predicted = format_bytes(memory.predicted_peak_bytes)
        measured = format_bytes(memory.measured_peak_bytes)
        say(f"Peak memory {measured} (predicted {predicted}, allowed {allowed}{enforced})")
    if output is not None:
        say(f"\nWritten: {output}  (next: edgeplast report {output} -o report.html, or edgeplast plan {output} …)")


def _print_bars(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose second column holds bars."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    table.add_column(columns[0], overflow="fold")  # a long name gives way, numbers do not
    for i, column in enumerate(columns[1:]):
        table.add_column(column, justify="right" if i else "left", style=None if i else "blue", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def bar(value: float, top: float) -> str:
    """Return a bar of eighths of cells, always as wide, full for ``top``."""
    eighths = round(8 * _BAR_CELLS * max(value, 0.0) / top) if top > 0 else 0
    drawn = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
    return drawn.ljust(_BAR_CELLS)


def _kind_in(table: ScoreTable) -> Callable[[str], str]:
    return lambda name: "attn.head" if ".head." in name else table.place(name)[1]


def _agreement(table: ScoreTable) -> list[str]:
    from edgeplast.reporting.agreement import agreement

    found = {other: agreement(table.components, table.by(other)) for other in table.others}
    return [
        f"Kendall tau of {table.method} with {other}: {a.tau:+.2f} (95 %: {a.low:+.2f} to {a.high:+.2f})"
        for other, a in found.items()
    ]
