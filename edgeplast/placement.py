"""Where graphs run: the execution provider that was asked for, the one that is used, and its own memory."""

from __future__ import annotations

import msgspec


class Placement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The part of a device that computes.

    Attributes:
        asked: the provider that was asked for.
        used: the provider that computes; nodes it has no kernel for run on the CPU.
        fallback_reason: why the two differ; empty where they do not.
        memory_limit_bytes: most that the arena of one session may take of the provider's memory; None where there is
            no budget, or where the provider cannot be held to one.
    """

    asked: str = "cpu"
    used: str = "cpu"
    fallback_reason: str = ""
    memory_limit_bytes: int | None = None


ON_CPU = Placement()


class DeviceMemoryReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Memory of a provider that is not the CPU; it comes on top of the process's resident set.

    Attributes:
        source: ``nvml`` (the driver's figure for this process, or the growth of what is in use on all GPUs where it
            shows none), ``system`` (a Jetson: growth of what the GPU has mapped of the shared memory) or ``none``.
        used_bytes: at the end of the run, when arenas are at their largest; None where it cannot be read.
        total_bytes: of the GPUs, or of the memory that they share with the CPU.
        note: what the figure leaves open, and what of the budget could not be enforced.
    """

    source: str
    used_bytes: int | None
    total_bytes: int | None
    note: str
