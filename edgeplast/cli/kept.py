"""What the command line says of old and new knowledge: what other sets lost, why a run went back, classes added."""

from __future__ import annotations

from pathlib import Path

from edgeplast.adaptation import Adaptation, OtherSet
from edgeplast.units import format_bytes

_SHOWN_POINTS = 0.05
"""Less is shown as none."""


def rows_of_others(report: Adaptation) -> list[tuple[str, str]]:
    """Return a row for each other set: accuracy before and after, what was lost, and of which class most."""
    return [(f"of {name}", _kept(found)) for name, found in report.also.items()]


def why_it_stopped(report: Adaptation) -> str:
    """Say that a run forgot more than it may, what was kept, and what to do."""
    came = " (as they came)" if report.best_epoch == 0 and report.options.get("head") != "fitted" else ""
    last = report.history[-1]
    lost = {name: 100 * ((report.also[name].accuracy.before or 0.0) - now) for name, now in last.also.items()}
    name = max(lost, key=lost.__getitem__)
    first = "once the head was fitted" if report.options.get("head") == "fitted" else "once new classes were placed"
    when = f"after epoch {last.epoch}" if last.epoch else first
    return (
        f"\nStopped: {when} {name} had lost {lost[name]:.1f} points, more than the "
        f"{report.options['keep_within']:g} of --keep-within. The weights of epoch {report.best_epoch}{came} were "
        "kept. Pictures of the old kind among the new, a lower learning rate or fewer parts that train may keep more."
    )


def why_it_went_back(report: Adaptation) -> str:
    """Say why weights that were learned without labels are not kept, or none were learned."""
    if report.stopped_because == "nothing to mend":
        return (
            "\nNothing was changed: predictions are spread over the classes already, as where pictures look as they "
            "did, and learning without labels would risk more than it could win. Some labelled pictures say more."
        )
    if report.stopped_because == "nothing to go by":
        return (
            "\nNothing was changed: most pictures were called the same, whatever they show or because they show it. "
            "Without labels nobody can tell which; ten labelled pictures a class can."
        )
    why = {
        "collapsed": "predictions came to show clearly fewer classes than before",
        "disagreed": "cropped and mirrored views of a picture came to be called differently more often than before",
    }[report.stopped_because]
    came = " (as they came)" if report.best_epoch == 0 else ""
    return f"\nStopped: {why}. The weights of epoch {report.best_epoch}{came} were kept."


def start_of(head: str | None) -> str:
    """Return what epoch 0 is called: the head before the first step."""
    return "fitted head" if head == "fitted" else "new classes placed"


def new_ones(report: Adaptation) -> str:
    """Say which classes were seen for the first time, and by how many pictures they were placed."""
    each = [f"{name} by {n} picture{'' if n == 1 else 's'}" for name, n in report.new_classes.items()]
    return ", ".join(each)


def why_nothing_trained(report: Adaptation) -> str:
    """Say that a class was placed by its pictures alone, and what would do more."""
    return (
        f"\nNothing was trained: all pictures show {next(iter(report.new_classes))}, and from one class alone a model "
        "learns to say nothing else. The class was placed by its pictures. More is learned with pictures of other "
        "classes beside them."
    )


def when_unknown(report: Adaptation) -> str:
    """Say below which energy a picture is unknown, and how many known ones that calls so."""
    found = report.unknown
    if found is None:
        return "cannot tell: too few pictures held out to fit it on"
    return (
        f"below energy {found.energy:.2f}: {found.false_alarms:.1%} of {found.images} known pictures (false alarms; of "
        f"others {found.most_alarms:.1%} at most)"
    )


def what_is_kept(report: Adaptation, output: Path) -> str:
    """Say which pictures lie in the output, that nobody is surprised, and how to be rid of them."""
    found = report.replay
    assert found is not None
    judged = f" and {found.held_back} validated on" if found.held_back else ""
    mixed = f"{found.mixed_in} kept pictures were learned from{judged} too; " if found.mixed_in else ""
    count = sum(found.kept.values())
    if not count:
        return f"{mixed}none is kept now"
    return (
        f"{mixed}{count} pictures are kept in {output / 'replay'} ({format_bytes(found.bytes)}); "
        f"edgeplast forget {output} --replay deletes them"
    )


def _kept(found: OtherSet) -> str:
    before, after = found.accuracy.before, found.accuracy.after
    points = found.lost_points
    said = "nothing lost" if abs(points) < _SHOWN_POINTS else f"{'lost' if points > 0 else 'gained'} {abs(points):.1f}"
    if (worst := found.worst) is not None and len(found.per_class) > 1 and worst[1] >= _SHOWN_POINTS:
        said += (
            f", most of {worst[0]}: {worst[1]:.1f}" if points >= _SHOWN_POINTS else f"; {worst[0]} lost {worst[1]:.1f}"
        )
    return f"{before or 0.0:.1%} → {after or 0.0:.1%} ({said})"
