"""Names of models: which also say where the weights are, and what is near one that nobody has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeplast.errors import UsageError
from edgeplast.pretrained.files import checkpoint_file
from edgeplast.pruned import is_pruned

LOCAL, HUBS = "local-dir:", ("local-dir:", "hf-hub:", "hf_hub:")
"""How names begin that timm looks up with their weights: in a folder, or at a model hub."""


def brings_weights(name: str) -> bool:
    """Whether a model's name also says where its weights are."""
    return name.lower().startswith(HUBS) or is_pruned(name)


def check_sources(
    name: str, *, checkpoint: Path | None, pretrained: bool, image_size: object = None, options: object = None
) -> None:
    """Raise unless a model's name and what goes with it say in one way where the weights are; nothing is loaded.

    Args:
        name: of the model.
        checkpoint: its weights; the file is looked at.
        pretrained: whether they come from timm's hub.
        image_size: of its input, if given.
        options: of timm's model, if given.

    Raises:
        UsageError: two sources are given, or sizes for a pruned model.
        InputError: there is no such checkpoint, or it holds something else.
    """
    if is_pruned(name) and (checkpoint is not None or pretrained or image_size is not None or options):
        raise UsageError(
            f"{name} is a pruned model and brings its own weights and sizes: leave out --checkpoint, --pretrained, "
            "--image-size and --model-kwargs."
        )
    if checkpoint is not None and pretrained:
        raise UsageError("--checkpoint and --pretrained both name the weights. Give one of them.")
    if checkpoint is not None:
        checkpoint_file(checkpoint)


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
