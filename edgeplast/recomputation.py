"""Recomputation: how much of each block is computed again in the backward pass instead of kept, in one word."""

from __future__ import annotations

from typing import Literal, get_args

Recompute = Literal["none", "selective", "full"]
"""``none``: everything that the backward pass reads is kept. ``selective``: norms, activations and attention weights
are computed again. ``full``: of each block its input alone is kept. In this order a graph needs less memory and does
more work (the words are Megatron's; Korthikanti et al. 2022, arXiv 2205.05198)."""

RECOMPUTE: tuple[Recompute, ...] = get_args(Recompute)

FLOPS_PER_BYTE = 56
"""What ``selective`` may spend: operations to keep one byte less. A norm costs 25 and attention weights of heads of 64
dimensions 45 (two thirds of it for the scores), so both are computed again; a product with a parameter never is."""

SOFTMAX_FLOPS = 50
"""What an element of a softmax costs, in the operations that a matrix product does in that time."""

ELEMENT_FLOPS = 16
"""What an element costs of operators that only move or combine arrays, likewise."""

IN_WORDS: dict[Recompute, str] = {"none": "kept", "selective": "partly recomputed", "full": "recomputed"}
"""For people."""
