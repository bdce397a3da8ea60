"""Between a pruned model's folder and a torch module: a timm model is created and its layers take the saved sizes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeplast.errors import DamagedError, InputError
from edgeplast.pruned import RECORD, WEIGHTS, PrunedRecord, is_pruned
from edgeplast.stored_files import describe_file

if TYPE_CHECKING:
    import torch


def read_record(path: Path) -> PrunedRecord:
    """Read ``pruned.json`` and check the weights' file against it, before any parser sees it.

    Raises:
        InputError: there is no pruned model, or it is of a newer format.
        DamagedError: the record makes no sense, or the weights are missing or changed.
    """
    if not is_pruned(path):
        raise InputError(f"{path} is no pruned model: it has no {RECORD}. Make one with: edgeplast prune MODEL …")
    try:
        record = PrunedRecord.read(path / RECORD)
    except InputError as error:
        if "has format" in str(error):
            raise
        raise DamagedError(f"{error} Prune the model again, or copy it again.") from error
    weights = path / WEIGHTS
    if not weights.is_file() or describe_file(weights) != record.weights:
        what = "was changed" if weights.is_file() else "is missing"
        raise DamagedError(f"The pruned model {path} is damaged: {WEIGHTS} {what}. Copy it again, or prune again.")
    return record


def load_pruned(path: Path) -> torch.nn.Module:
    """Return the pruned model of a folder, in evaluation mode.

    Raises:
        InputError: it is no pruned model, or this timm creates its source model differently.
        DamagedError: record and weights do not fit each other.
    """
    from edgeplast.models import create, describe, remember, set_pictures
    from edgeplast.pretrained.files import read_state_dict

    record = read_record(path)
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in record.options.items()}
    model = create(record.model, {**options, "num_classes": record.classes})
    weights = read_state_dict(path / WEIGHTS).tensors
    _take_over(model, weights, path)
    m: Any = model
    for block, sizes in zip(m.blocks, record.blocks, strict=False):
        set_heads(block.attn, sizes.heads)
    found = describe(model, record.model)
    wanted = [(b.heads, b.hidden) for b in record.blocks]
    if list(zip(found.heads, found.mlp_width, strict=True)) != wanted:
        raise DamagedError(f"The pruned model {path} is damaged: the weights have other sizes than {RECORD} says.")
    remember(model, record.model, options, record.kept_fraction)
    set_pictures(model, record.pictures)
    return model.eval()


def set_heads(attention: Any, heads: int) -> None:
    """Tell an attention module that it has so many heads, and how wide they are together."""
    attention.num_heads = heads
    if hasattr(attention, "attn_dim"):
        attention.attn_dim = int(attention.proj.in_features)


def _take_over(model: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Put every saved tensor into its module, and let linear layers and norms know their sizes."""
    import torch

    expected = model.state_dict()
    odd = sorted(expected.keys() ^ weights.keys())
    if odd:
        raise InputError(
            f"The weights of {path} and timm's model do not match; on one side only: {', '.join(odd[:5])}. "
            "Use the version of timm that the model was pruned with."
        )
    for name, tensor in weights.items():
        where, _, leaf = name.rpartition(".")
        module: Any = model.get_submodule(where)
        if tensor.shape != expected[name].shape and not name.startswith("blocks."):
            raise DamagedError(
                f"The pruned model {path} is damaged: {name} is {tuple(tensor.shape)} instead of "
                f"{tuple(expected[name].shape)}, and pruning leaves that alone."
            )
        if leaf in module._parameters:
            setattr(module, leaf, torch.nn.Parameter(tensor))
        else:
            module._buffers[leaf] = tensor
        if leaf == "weight" and isinstance(module, torch.nn.Linear):
            module.out_features, module.in_features = tensor.shape
        elif leaf == "weight" and hasattr(module, "normalized_shape"):
            module.normalized_shape = tuple(tensor.shape)
