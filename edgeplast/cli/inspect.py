"""``edgeplast inspect``: what a bundle holds and what its tiers need; what was taken out of a pruned model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeplast.bundle import Bundle
from edgeplast.cli.components import component_rows
from edgeplast.cli.console import print_json, print_table, progress_bar, say
from edgeplast.plans import PlannedComponent
from edgeplast.pruned import PrunedRecord, is_pruned
from edgeplast.recomputation import IN_WORDS
from edgeplast.reshaping import read_record
from edgeplast.units import format_bytes, format_count, format_seconds


def inspect(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle, fresh or adapted, or of a pruned model.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show model, classes, what trains, how weights are stored, and what each tier needs."""
    if is_pruned(bundle):
        record = read_record(bundle)
        if as_json:
            print_json("pruned model", record.to_json())
        else:
            show_pruned(record)
        return
    with progress_bar(as_json, doing=f"opening {bundle}") as progress:
        opened = Bundle.open(bundle, progress=progress)
    manifest = opened.manifest
    if as_json:
        content = {
            "model": manifest.model,
            "classes": manifest.classes,
            "components": manifest.plan.components,
            "tiers": manifest.tiers,
            "alternatives": [tier.name for tier in manifest.alternatives],
            "files": manifest.files,
            "bytes": opened.bytes,
            "preprocessing": manifest.preprocessing,
            "strategy": manifest.plan.strategy,
            "notes": manifest.plan.notes,
            "versions": manifest.versions,
            "adapted_from": manifest.adapted_from,
            "temperature": manifest.temperature,
        }
        print_json("bundle", content)
        return
    plan = manifest.plan
    adapted = "adapted, " if manifest.adapted_from else ""
    say(
        f"{manifest.model}: {adapted}{len(manifest.classes)} classes ({', '.join(manifest.classes[:8])}"
        f"{', …' if len(manifest.classes) > 8 else ''}), {format_bytes(opened.bytes)} on disk"
    )
    if manifest.temperature is not None:
        say(f"its logits are divided by {manifest.temperature:.2f} (temperature)")
    total = sum(c.parameters for c in plan.components.values())
    say(f"trains {plan.trainable_parameters:,} of {total:,} parameters (strategy {plan.strategy})\n")
    columns, rows, outside = component_rows(plan.outline, lambda name: _cell(plan.components[name]))
    print_table("components (T: trains, else bits of each stored weight)", columns, rows)
    say(f"{', '.join(f'{name} {_cell(plan.components[name])}' for name in outside)}\n")
    kinds = {c.name: c.kind for c in plan.outline.components}
    tiers = [
        (
            tier.name,
            IN_WORDS[graph.recompute],
            str(len(tier.components)),
            format_count(graph.footprint.trained_parameters),
            format_bytes(graph.footprint.transient_bytes(1)),
            format_bytes(graph.footprint.transient_bytes(plan.batch_size)),
        )
        for tier in manifest.tiers
        for graph in tier.graphs
    ]
    headings = ("tier", "blocks", "components", "trains", "an image", f"{plan.batch_size} images")
    print_table("activation memory of each training graph", headings, tiers, left=("blocks",))
    trained: dict[str, list[str]] = {}
    for tier in manifest.tiers:
        types = ", ".join(dict.fromkeys(kinds[name] for name in tier.components))
        trained.setdefault(types, []).append(tier.name)
    if manifest.alternatives:
        names = ", ".join(tier.name for tier in manifest.alternatives)
        say(f"alternatives, of which adapt --rescore chooses: {names}")
    say("\n".join(f"{', '.join(t)} train{'s' * (len(t) == 1)} {types}" for types, t in trained.items()))
    for note in plan.notes:
        say(f"note: {note}")


def show_pruned(record: PrunedRecord) -> None:
    """Print what was taken out of a model, and what it costs before and after."""
    by = f", guided by {record.method}" if record.method else ""
    say(f"{record.model} pruned to {record.target}{by}\n")
    rows = [
        (
            f"blocks.{i}",
            _of(block.heads, block.heads_before),
            _of(block.hidden, block.hidden_before),
            *(f"{record.kept_fraction.get(f'blocks.{i}.{kind}', 1.0):.0%}" for kind in ("attn", "fc1", "fc2")),
        )
        for i, block in enumerate(record.blocks)
    ]
    columns = ("block", "heads", "hidden units", "attn kept", "fc1 kept", "fc2 kept")
    print_table("what is kept (the percentages are of parameters)", columns, rows)
    say()
    before, after = record.before, record.after
    costs = [
        (
            "parameters",
            f"{before.parameters:,}",
            f"{after.parameters:,}",
            f"{after.parameters / before.parameters:.0%}",
        ),
        (
            "multiply–accumulates",
            format_count(before.macs),
            format_count(after.macs),
            f"{after.macs / before.macs:.0%}",
        ),
    ]
    if before.latency_seconds is not None and after.latency_seconds is not None:
        share = after.latency_seconds / before.latency_seconds
        measured = (format_seconds(before.latency_seconds), format_seconds(after.latency_seconds), f"{share:.0%}")
        costs.append(("one image, measured", *measured))
    print_table("", ("cost", "before", "after", "kept"), costs)
    if record.distill_loss:
        first, last = record.distill_loss
        say(f"\n{record.distill_steps} steps of distillation: feature loss {first:.3f} → {last:.3f}")
    for note in record.notes:
        say(f"note: {note}")


def _of(kept: int, before: int) -> str:
    return str(kept) if kept == before else f"{kept} of {before}"


def _cell(component: PlannedComponent) -> str:
    kept = "" if component.kept_fraction == 1 else f" {component.kept_fraction:.0%}"
    return ("T" if component.trainable else str(component.weight_bits)) + kept
