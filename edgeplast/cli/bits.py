"""What ``--weight-bits`` means: one number for all, and others for components that are named."""

from __future__ import annotations

from edgeplast.errors import UsageError
from edgeplast.outline import Outline

BITS = (32, 8, 4)

AUTO = "auto"
"""Chosen by measuring, for a target; only ``export`` has the model to measure."""

HELP = "Bits of each frozen weight: 32, 8 or 4; others for some after a comma: 8,fc1=4,attn:0-3=32."

EXPORT_HELP = HELP[:-1] + "; or auto: chosen by plasticity and measured error for --size or --max-accuracy-drop."


def weight_bits_of(given: str, outline: Outline) -> tuple[int, dict[str, int]]:
    """Read ``8``, or ``8,fc1=4,blocks.3.attn=32``: bits of all, and of the components that patterns name.

    Args:
        given: as on the command line; later parts go before earlier ones.
        outline: of the model.

    Returns:
        bits of all components (8 where no single number is given), and component to bits where they differ.

    Raises:
        UsageError: a part cannot be read, or names no component of the model.
    """
    overall, parts = _parsed(given)
    named: dict[str, int] = {}
    for pattern, number in parts:
        named |= dict.fromkeys(outline.select(pattern), number)
    return overall, named


def check_bits(given: str) -> None:
    """Raise unless ``--weight-bits`` can be read; what it names is looked for when there is a model.

    Raises:
        UsageError: a part cannot be read.
    """
    _parsed(given)


def _parsed(given: str) -> tuple[int, list[tuple[str, int]]]:
    """Return the bits of all, and patterns with their bits."""
    overall, named = 8, []
    for part in filter(None, (p.strip() for p in given.split(","))):
        if part == AUTO:
            raise UsageError(
                "--weight-bits auto is measured on the model, so it stands alone and goes with export: "
                "edgeplast export MODEL … --weight-bits auto --size 8MiB"
            )
        pattern, _, number = part.rpartition("=")
        if not number.isdigit() or int(number) not in BITS:
            raise UsageError(
                f"--weight-bits {given!r}: {part!r} cannot be read. Give 32, 8 or 4, and where some components "
                "differ name them after it: 8,fc1=4,attn:0-3=32,blocks.5.fc2=8."
            )
        if pattern:
            named.append((pattern, int(number)))
        else:
            overall = int(number)
    return overall, named


def check_auto(weight_bits: str, *, target: bool, data: bool, frozen_compute: str) -> bool:
    """Return whether bits are chosen by measuring, once the options that go with it are found to fit.

    Args:
        weight_bits: as on the command line.
        target: whether ``--size`` or ``--max-accuracy-drop`` is given.
        data: whether ``--data`` is.
        frozen_compute: as on the command line.

    Raises:
        UsageError: a target without ``auto``, or ``auto`` without what it needs.
    """
    if weight_bits.strip() != AUTO:
        if target:
            raise UsageError(
                "--size and --max-accuracy-drop are targets for the bits. Give --weight-bits auto with them; a limit "
                "for what trains is --disk."
            )
        return False
    if not target:
        raise UsageError("--weight-bits auto needs a target: --size 8MiB or --max-accuracy-drop 0.5 (points).")
    if not data:
        raise UsageError("--weight-bits auto measures errors on images. Give them with --data.")
    if frozen_compute != "fp32":
        raise UsageError(
            f"--weight-bits auto measures the rounding of weights alone and cannot be combined with --frozen-compute "
            f"{frozen_compute}. Give the bits by number: --weight-bits 8."
        )
    return True
