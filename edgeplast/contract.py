"""The contract between exporter and device: under which names the graphs of a bundle take and return tensors.

Whoever writes a graph or a weight file asks here, and whoever opens one; no other file spells these names.
"""

from __future__ import annotations

IMAGES, LOGITS, TARGETS, LOSS = "images", "logits", "targets", "loss"
"""Inputs and outputs of graphs: images (b, C, H, W) and targets (b, classes) in, logits (b, classes) and the scalar
loss out, all float32. The gradient at the logits is softmax(logits)·Σtargets - targets."""

LATENTS = "prefix/latents"
"""Output of the prefix graph and in place of images the input of the graphs that go on from it: (n·b, …), float32, of n
rows an image. Bundles whose model has no part worth it before what trains have neither."""

FEATURES = "features"
"""Second output of an evaluation graph whose logits are one linear layer: what that layer multiplies, (b, width)."""

PAIRS, DISTANCES = "pairs", "distances"
"""Input and output of a score graph: pictures (2b, C, H, W) in, those of a pair one after the other; for each value
that is listened to the squared distance of the two and the squared norm of the first out, (b, 2 · values), float32."""

TAPS = "edgeplast.taps"
"""In the metadata of a score graph: which values these are; see ``edgeplast.score_taps``."""

MEANS, LIKENESS = "features.means", "features.likeness"
"""In the header of an adapted bundle's weights, in no graph: where features of some of its classes lie, by which a new
class that comes alone is placed. Their means (classes, width); and what two pictures of a class have in common, (1,).
Each is the base64 of its float32 values, row by row."""


def gradient_input(parameter: str) -> str:
    """Return the name of the graph input that carries the gradient accumulated so far."""
    return f"{parameter}.gradient"


def gradient_output(parameter: str) -> str:
    """Return the name of the graph output that carries the accumulated gradient after this micro-batch."""
    return f"{parameter}.gradient.sum"


def quantized_name(weight: str) -> str:
    """Return the name under which the int8 matrix (out, in) of a weight is stored."""
    return f"{weight}.int8"


def packed_name(weight: str) -> str:
    """Return the name under which the packed 4-bit matrix of a weight is stored: elements row by row, two a byte."""
    return f"{weight}.int4"


def matrix_name(weight: str) -> str:
    """Return the name under which the transposed int8 matrix (in, out) of an integer product is stored."""
    return f"{weight}.int8.transposed"


def scale_name(weight: str) -> str:
    """Return the name of a quantized weight's scales: (out,), or one a block of columns in 4 bits."""
    return f"{weight}.scale"


def factor_name(weight: str) -> str:
    """Return the name of the factors (in,) of an integer product's input, where it has any."""
    return f"{weight}.input_factor"


def low_rank_names(weight: str) -> tuple[str, str]:
    """Return the names of the factors A (rank, in) and B (out, rank) of what is added to a matrix (out, in).

    The product B·A is added to the weight; the names are PEFT's, without its prefix.
    """
    stem = weight.removesuffix(".weight")
    return f"{stem}{_LOW_RANK[0]}", f"{stem}{_LOW_RANK[1]}"


_LOW_RANK = (".lora_A.weight", ".lora_B.weight")


def is_low_rank(parameter: str) -> bool:
    """Whether a parameter is one of a pair of low-rank factors."""
    return parameter.endswith(_LOW_RANK)
