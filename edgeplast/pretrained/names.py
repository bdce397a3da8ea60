"""Names of models: which also say where the weights are, and what is near one that nobody has."""

from __future__ import annotations

from typing import Any

from edgeplast.errors import UsageError
from edgeplast.pruned import is_pruned

LOCAL, HUBS = "local-dir:", ("local-dir:", "hf-hub:", "hf_hub:")
"""How names begin that timm looks up with their weights: in a folder, or at a model hub."""


def brings_weights(name: str) -> bool:
    """Whether a model's name also says where its weights are."""
    return name.lower().startswith(HUBS) or is_pruned(name)


def unknown_model(name: str, timm: Any) -> UsageError:
    """Return the error for a name that timm does not have."""
    from difflib import get_close_matches

    family = timm.list_models(module="vision_transformer") + timm.list_models(module="deit")
    near = get_close_matches(name, family, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return UsageError(
        f"timm has no model {name!r}.{hint} Known are {len(family)} vision transformers such as "
        "vit_tiny_patch16_224, vit_small_patch16_224, vit_base_patch16_224 and deit_tiny_distilled_patch16_224; "
        """list them with: python -c "import timm; print(timm.list_models('*vit*'))"."""
    )
