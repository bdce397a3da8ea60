"""The parts of a plain vision transformer by name, for what needs one: pruning, and the scores of embeddings and heads.

Such a model is cut into ``patch_embed``, then for each block ``blocks.i.norm1``, ``blocks.i.attn``, ``blocks.i.norm2``,
``blocks.i.fc1``, ``blocks.i.fc2``, then ``norm`` and ``head``: the names that its outline gives them too, which is what
everything else goes by (``outline.py``). Parameter names are timm's (``blocks.3.mlp.fc1.weight``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgeplast.errors import InputError, UsageError

COMPONENT_TYPES = ("norm1", "attn", "norm2", "fc1", "fc2")
"""The five component types of a block, in the order in which data flows through them."""

EMBED, NORM, HEAD = "patch_embed", "norm", "head"

_BLOCK_PARAMETER = re.compile(r"blocks\.(\d+)\.(.+)")
_BLOCK_COMPONENT = re.compile(rf"blocks\.(\d+)\.({'|'.join(COMPONENT_TYPES)})")

# What a block's parameter belongs to, by the prefix of its name inside the block. Layer scale multiplies
# the output of its branch, so ls1 is part of attn and ls2 of fc2; a norm between fc1 and fc2 feeds fc2.
_IN_BLOCK = (
    ("norm1.", "norm1"),
    ("attn.", "attn"),
    ("ls1.", "attn"),
    ("norm2.", "norm2"),
    ("mlp.fc1", "fc1"),
    ("mlp.norm.", "fc2"),
    ("mlp.fc2.", "fc2"),
    ("ls2.", "fc2"),
)
_OUTSIDE = (
    ("patch_embed.", EMBED),
    ("cls_token", EMBED),
    ("dist_token", EMBED),
    ("reg_token", EMBED),
    ("pos_embed", EMBED),
    ("norm_pre.", EMBED),
    ("norm.", NORM),
    ("fc_norm.", NORM),
    ("head.", HEAD),
    ("head_dist.", HEAD),
)


def component_of(parameter: str) -> str:
    """Return the component that owns a parameter (timm's name for it).

    Raises:
        InputError: the name belongs to no component of the supported family.
    """
    match = _BLOCK_PARAMETER.fullmatch(parameter)
    table, name = (_IN_BLOCK, match.group(2)) if match else (_OUTSIDE, parameter)
    for prefix, component in table:
        if name.startswith(prefix):
            return f"blocks.{match.group(1)}.{component}" if match else component
    raise InputError(
        f"Parameter {parameter!r} belongs to no known component of a vision transformer. "
        "Supported are models built like timm's VisionTransformer: patch_embed, cls/dist/reg tokens, pos_embed, "
        "blocks.N.{norm1,attn,ls1,norm2,mlp.fc1,mlp.fc2,ls2}, norm or fc_norm, head."
    )


def block_of(component: str) -> int | None:
    """Return the block index of a component, or None for ``patch_embed``, ``norm`` and ``head``."""
    match = _BLOCK_COMPONENT.fullmatch(component)
    return int(match.group(1)) if match else None


def type_of(component: str) -> str:
    """Return the component type: ``"fc1"`` for ``"blocks.3.fc1"``, and the name itself outside blocks."""
    match = _BLOCK_COMPONENT.fullmatch(component)
    return match.group(2) if match else component


def block_components(depth: int) -> list[str]:
    """Return the names of all components inside the blocks of a model, in data-flow order."""
    return [f"blocks.{i}.{kind}" for i in range(depth) for kind in COMPONENT_TYPES]


def all_components(depth: int) -> list[str]:
    """Return the names of all components of a model with ``depth`` blocks, in data-flow order."""
    return [EMBED, *block_components(depth), NORM, HEAD]


def in_order(components: Iterable[str], depth: int) -> list[str]:
    """Return the given components in data-flow order, each once.

    Raises:
        UsageError: one of them is no component of a model with ``depth`` blocks.
    """
    position = {name: i for i, name in enumerate(all_components(depth))}
    given = set(components)
    unknown = sorted(given - position.keys())
    if unknown:
        raise UsageError(
            f"Unknown component{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))}. "
            f"This model has {EMBED}, blocks.0 to blocks.{depth - 1} with "
            f"{', '.join(COMPONENT_TYPES)}, {NORM} and {HEAD}; for example blocks.{depth - 1}.attn."
        )
    return sorted(given, key=position.__getitem__)


def select(pattern: str, depth: int) -> list[str]:
    """Expand a short form into component names, in data-flow order.

    ``attn`` is that type in all blocks, ``attn:8-11`` in blocks 8 to 11, ``attn:3`` in block 3,
    ``blocks:8-11`` whole blocks, ``all`` everything; a full component name stands for itself;
    commas join several.

    Raises:
        UsageError: a part of the pattern names nothing in a model with ``depth`` blocks.
    """
    chosen: list[str] = []
    for part in filter(None, (p.strip() for p in pattern.split(","))):
        kind, _, span = part.partition(":")
        if part == "all":
            chosen += all_components(depth)
        elif kind in (*COMPONENT_TYPES, "blocks"):
            kinds = COMPONENT_TYPES if kind == "blocks" else (kind,)
            chosen += [f"blocks.{i}.{k}" for i in _span(part, span, depth) for k in kinds]
        else:
            chosen += in_order([part], depth)
    return in_order(chosen, depth)


def _span(part: str, span: str, depth: int) -> range:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", span) if span else None
    if not span:
        return range(depth)
    first = int(match.group(1)) if match else depth
    last = int(match.group(2) or first) if match else depth
    if not first <= last < depth:
        raise UsageError(f"{part!r} names no blocks of this model: it has blocks 0 to {depth - 1}, e.g. attn:0-3.")
    return range(first, last + 1)
