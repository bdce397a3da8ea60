"""How threads of a session wait for its next node: onnxruntime's version in, entries of the session's settings out."""

from __future__ import annotations

import re

_AWAKE_MICROSECONDS = 100
"""As fast as the 35 ms of the runtime's default, and the cores are others' after it."""


def spinning(version: str) -> dict[str, str]:
    """Return how long threads wait awake, in the words of onnxruntime's ``version``, e.g. ``1.32.0``.

    Runtimes before 1.26 know always or never, and wait for 35 ms after each run: theirs go to sleep at once.
    """
    told = tuple(map(int, re.findall(r"\d+", version)[:2])) >= (1, 26)
    if told:
        return {"session.intra_op.spin_duration_us": str(_AWAKE_MICROSECONDS)}
    return {"session.intra_op.allow_spinning": "0"}
