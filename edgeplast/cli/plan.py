"""``edgeplast plan``: what to train under a budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from edgeplast.cli import bits
from edgeplast.cli.components import component_rows
from edgeplast.cli.console import print_json, print_table, progress_bar, say
from edgeplast.cli.options import TrainOption, budget_of, profile_of
from edgeplast.errors import UsageError
from edgeplast.optimizers import IN_WORDS as OPTIMIZERS_IN_WORDS
from edgeplast.outputs import claim
from edgeplast.plans import Plan
from edgeplast.recomputation import IN_WORDS
from edgeplast.scores import ScoreTable
from edgeplast.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from edgeplast.planning import Alternative, Estimate, Explanation

_BAR_WIDTH, _MISSED_SHOWN = 40, 8


def plan(
    scores: Annotated[Path, typer.Argument(help="Scores from `edgeplast score`.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Plan to write (default: show only).")] = None,
    memory: Annotated[str | None, typer.Option(help="Peak resident memory of the device process, e.g. 256MiB.")] = None,
    time_per_step: Annotated[float | None, typer.Option(help="Wanted seconds per optimizer step.")] = None,
    disk: Annotated[str | None, typer.Option(help="Largest bundle, e.g. 30MiB.")] = None,
    strategy: Annotated[
        str,
        typer.Option(
            help="best (= focus), summed, uniform, freeze-low:FRACTION, focus-high:FRACTION, last-k:BLOCKS, or a kind "
            "of component (attn, fc1 …, as the model has them) in all blocks."
        ),
    ] = "best",
    train: TrainOption = None,
    method: Annotated[str | None, typer.Option(help="Which score to go by (default: the table's main one).")] = None,
    classes: Annotated[
        str | None, typer.Option(help="Class names of the new head, comma-separated (default: the scored images').")
    ] = None,
    optimizer: Annotated[str, typer.Option(help=f"{OPTIMIZERS_IN_WORDS}.")] = "adamw",
    batch: Annotated[int, typer.Option(help="Images per optimizer step.")] = 16,
    micro_batch: Annotated[int | None, typer.Option(help="Images per pass of the graph (default: chosen).")] = None,
    weight_bits: Annotated[str, typer.Option(help=bits.HELP)] = "8",
    gflops: Annotated[
        float | None, typer.Option(help="GFLOP/s the device reaches in training, for --time-per-step.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show other ways to choose, what just missed, what more memory would buy.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="Defaults of a device; see `edgeplast devices`.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan (and explanation) as JSON.")] = False,
) -> None:
    """Choose what trains on a device of given memory, time per step and disk."""
    from edgeplast.planning import explain as explain_plan
    from edgeplast.planning.estimating import check_training
    from edgeplast.planning.strategies import check_strategy

    if output is not None:
        claim(output, force=force)
    if gflops is not None and gflops <= 0:
        raise UsageError(f"--gflops {gflops:g} must be positive: billions of operations a second, e.g. 170.")
    check_training(optimizer, batch)
    check_strategy(strategy, train)
    bits.check_bits(weight_bits)
    budget = budget_of(memory, profile_of(device), disk=disk, step_seconds=time_per_step)
    how: dict[str, Any] = {"method": method, "optimizer": optimizer, "batch_size": batch}
    table = ScoreTable.read(scores)
    overall, named = bits.weight_bits_of(weight_bits, table.outline)
    how |= {"micro_batch_size": micro_batch, "weight_bits": overall, "component_weight_bits": named}
    if gflops is not None:
        how["flops_per_second"] = gflops * 1e9
    if classes:
        how["classes"] = tuple(name.strip() for name in classes.split(",") if name.strip())
    with progress_bar(as_json, doing="planning") as progress:
        why = explain_plan(table, budget, strategy=strategy, train=train, progress=progress, **how)
    if output is not None:
        why.plan.write(output)
    if as_json:
        if explain:
            print_json("explanation", msgspec.json.encode(why), output)
        else:
            print_json("plan", why.plan.to_json(), output)
        return
    _show_plan(why.plan)
    _show_cost(why)
    if explain:
        _show_contest(why)
        _show_missed(why)
        _show_curve(why)
    if output is not None:
        say(f"\nWritten: {output}  (next: edgeplast export {why.plan.outline.model} … --plan {output})")


def _show_plan(plan: Plan) -> None:
    """A row a block; what trains is marked T and its score."""
    columns, rows, outside = component_rows(plan.outline, lambda name: _cell(plan, name))
    print_table("what trains (T) and scores", columns, rows)
    trained = [name for name in outside if plan.components[name].trainable]
    say(f"and {', '.join(trained)}\n")


def _cell(plan: Plan, name: str) -> str:
    component = plan.components[name]
    score = "" if component.score is None else f"{component.score:.3g}"
    return f"{'T ' if component.trainable else ''}{score}" or "-"


def _show_cost(why: Explanation) -> None:
    plan, e = why.plan, why.estimate
    total = sum(c.parameters for c in plan.components.values())
    rows = [
        ("trains", f"{plan.trainable_parameters:,} of {total:,} parameters"),
        ("summed score", f"{why.score:.4g}"),
        ("step", f"{plan.batch_size} images, {plan.micro_batch_size} at a time"),
        ("blocks", IN_WORDS[plan.recompute]),
        ("predicted peak", f"{format_bytes(e.peak_bytes)} (budget: {plan.budget})"),
        ("  runtime", format_bytes(e.base_bytes)),
        ("  frozen weights", format_bytes(e.frozen_bytes)),
        ("  trainable weights", f"{format_bytes(e.state_bytes)} with gradients and optimizer"),
        ("  images", format_bytes(e.images_bytes)),
        ("  activations", format_bytes(e.transient_bytes)),
        ("time a step", f"about {format_seconds(e.step_seconds)}{_later(e)}"),
        ("bundle", f"about {format_bytes(e.disk_bytes)}"),
    ]
    print_table("", (f"strategy {plan.strategy}", ""), rows, "\n".join(plan.notes))


def _later(e: Estimate) -> str:
    """Say how long a step takes whose pictures were seen before, where that is less."""
    if e.cached_step_seconds >= e.step_seconds:
        return ""
    return f", {format_seconds(e.cached_step_seconds)} once their latents are cached (adapt --cache)"


def _show_contest(why: Explanation) -> None:
    """The usual ways to choose, the smallest peak first; the plan is marked."""
    from edgeplast.planning.explaining import EPOCH_IMAGES

    rows = [
        (
            f"{other.strategy}{' ←' if other.chosen else ''}",
            f"{other.parameters:,}",
            str(other.micro_batch_size),
            format_bytes(other.memory_bytes),
            format_seconds(other.step_seconds),
            format_seconds(other.epoch_seconds),
            format_seconds(other.cached_epoch_seconds) if other.cached_epoch_seconds < other.epoch_seconds else "",
            f"{other.score:.4g}",
        )
        for other in why.contest
    ]
    say()
    print_table(
        "within this budget",
        ("strategy", "trains", "at a time", "peak", "a step", f"{EPOCH_IMAGES:,} images", "cached", "score"),
        rows,
    )
    if (faster := why.next_faster) is not None:
        less = 1 - faster.step_seconds / why.estimate.step_seconds
        say(
            f"next faster: {faster.strategy}, {less:.0%} less time, trains {faster.parameters:,} parameters within "
            f"{format_bytes(faster.memory_bytes)}."
        )
    say("Which is best on your pictures, only a trial tells: `edgeplast compare` runs them.")


def _show_missed(why: Explanation) -> None:
    from edgeplast.planning.explaining import MORE_BYTES

    rows = []
    for missed in why.missed[:_MISSED_SHOWN]:
        if missed.memory_bytes is None:
            need = ("-", "time or disk forbid it")
        elif missed.short_bytes is None:
            need = (format_bytes(missed.memory_bytes), "")
        elif missed.short_bytes <= 0:
            need = (format_bytes(missed.memory_bytes), "fits: left out by the strategy")
        else:
            need = (format_bytes(missed.memory_bytes), format_bytes(missed.short_bytes))
        rows.append((missed.component, f"{missed.score:.3g}", *need))
    if rows:
        say()
        title = f"what just missed, of {len(why.missed)} frozen"
        print_table(title, ("component", "score", "peak with it", "short by"), rows)
    if why.next_step is not None:
        say(f"next better choice: {_alternative(why.next_step)}")
    if why.with_more is not None:
        say(f"{format_bytes(MORE_BYTES)} more would buy: {_alternative(why.with_more)}{_had(why, why.with_more)}")
    elif why.plan.budget.memory_bytes is not None:
        say(f"{format_bytes(MORE_BYTES)} more would buy nothing else.")


def _alternative(other: Alternative) -> str:
    parts = [f"score {other.score:.4g} at {format_bytes(other.memory_bytes)}"]
    for word, names in (("with", other.gained), ("without", other.lost)):
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            parts.append(f"{word} {', '.join(names[:4])}{more}")
    return ", ".join(parts)


def _had(why: Explanation, other: Alternative) -> str:
    """Say which of the usual ways has that score within the budget already, only slower."""
    same = [each for each in why.contest if not each.chosen and each.score >= other.score - 1e-9 * abs(other.score)]
    best = min(same, key=lambda each: each.step_seconds, default=None)
    if best is None:
        return ""
    return f" (within this budget {best.strategy} has it too, at {format_seconds(best.step_seconds)} a step)"


def _show_curve(why: Explanation) -> None:
    """Bars of the best summed score against memory; the plan's own budget is marked."""
    if not why.curve:
        return
    top = max((point.score for point in why.curve), default=0.0)
    limit = why.plan.budget.memory_bytes
    rows = []
    for i, point in enumerate(why.curve):
        after = why.curve[i + 1].memory_bytes if i + 1 < len(why.curve) else None
        here = limit is not None and point.memory_bytes <= limit and (after is None or limit < after)
        bar = "█" * round(_BAR_WIDTH * point.score / top) if top else ""
        memory = f"{format_bytes(point.memory_bytes):>8}  {bar:<{_BAR_WIDTH}}"
        rows.append((memory, f"{point.score:.4g}", str(point.components), "← budget" if here else ""))
    say()
    print_table("best summed score against memory", ("memory", "score", "components", ""), rows)
