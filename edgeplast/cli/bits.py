"""What ``--weight-bits`` means: one number for all, and others for components that are named."""

from __future__ import annotations

from edgeplast.components import select
from edgeplast.errors import UsageError

BITS = (32, 8, 4)

HELP = "Bits of each frozen weight: 32, 8 or 4; others for some after a comma: 8,fc1=4,attn:0-3=32."


def weight_bits_of(given: str, depth: int) -> tuple[int, dict[str, int]]:
    """Read ``8``, or ``8,fc1=4,blocks.3.attn=32``: bits of all, and of the components that patterns name.

    Args:
        given: as on the command line; later parts go before earlier ones.
        depth: blocks of the model.

    Returns:
        bits of all components (8 where no single number is given), and component to bits where they differ.

    Raises:
        UsageError: a part cannot be read, or names no component of the model.
    """
    overall = 8
    named: dict[str, int] = {}
    for part in filter(None, (p.strip() for p in given.split(","))):
        pattern, _, number = part.rpartition("=")
        if not number.isdigit() or int(number) not in BITS:
            raise UsageError(
                f"--weight-bits {given!r}: {part!r} cannot be read. Give 32, 8 or 4, and where some components "
                "differ name them after it: 8,fc1=4,attn:0-3=32,blocks.5.fc2=8."
            )
        if pattern:
            named |= dict.fromkeys(select(pattern, depth), int(number))
        else:
            overall = int(number)
    return overall, named
