"""What training one component alone takes, as a rough count: activations by depth, gradients and optimizer state."""

from __future__ import annotations

import re

from edgeplast.architecture import Architecture

FLOAT_BYTES = 4
OPTIMIZER_SLOTS = 2
"""AdamW keeps two numbers a parameter."""

_EXTRA_INPUTS = {"norm1": 0, "norm2": 0, "attn": 2, "fc1": 1, "fc2": 0, "mlp": 1}
"""Inputs of width D that a component's weight gradients need beside what a gradient passing through keeps:
qkv's and proj's, or fc1's. fc2's input has the MLP's width and is added by name."""


def activation_bytes(architecture: Architecture, component: str) -> int:
    """Activations kept for one picture if this component alone is trained, in float32, without recomputation.

        4 · Σ over blocks from its own to the last of (9·N·D + H·N²)  +  4 · N · (inputs for its own weights)

    N tokens, D width, H heads. A block that a gradient crosses keeps 9·N·D + H·N² numbers, a wholly trained one
    16·N·D + H·N² (../shared/plasticity.md); the difference is the inputs of its four matrices: qkv and proj D
    each, fc1 D, fc2 4D. Blocks before the component keep nothing. The own block counts in full, so this is an
    upper estimate; footprints that are enforced come from the graph itself, not from here.
    """
    match = re.match(r"blocks\.(\d+)\.(\w+)", component)
    if match is None:
        return 0
    block, kind = int(match.group(1)), match.group(2)
    tokens, width = architecture.tokens, architecture.width
    crossed = sum(9 * tokens * width + heads * tokens**2 for heads in architecture.heads[block:])
    own = _EXTRA_INPUTS[kind] * tokens * width
    if kind in ("fc2", "mlp"):
        own += tokens * architecture.mlp_width[block]
    return FLOAT_BYTES * (crossed + own)


def training_bytes(architecture: Architecture, component: str, parameters: int) -> int:
    """Memory that training this component alone adds to inference, batch 1: activations, gradients, AdamW state.

    activations + parameters · (4 gradient + 4·2 optimizer slots) bytes; the weights themselves are there anyway.
    """
    state = parameters * FLOAT_BYTES * (1 + OPTIMIZER_SLOTS)
    return activation_bytes(architecture, component) + state
