"""Weights into a model: all of its body or none, and where they do not fit, what is missing and what to do."""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeplast.errors import InputError
from edgeplast.pretrained.files import StateDict, bounded
from edgeplast.pretrained.layouts import CLIP, Translated, in_timms_names

if TYPE_CHECKING:
    import torch

_NO_PART_OF_A_BODY = re.compile(
    r"(head|head_dist|classifier|fc_norm_head|pre_logits|pooler|decoder\w*|mask_token|n_averaged|criterion|loss\w*|"
    r"attn_pool|text\w*|logit_scale|logit_bias|rope|projector\w*|predictor|lm_head|local_cls_norm)(\.|$)"
)
"""What a file may hold beyond the model: heads and what pretraining needed. Anything else means another model."""

_COUNTER = "num_batches_tracked"
"""Of batch norms, what only training reads; older files do not have it."""

_IN_THE_FILE_ALONE = (
    ("norm_pre.", "The file is a CLIP tower: take one of timm's vit_*_clip_*."),
    ("dist_token", "The file is a distilled DeiT: take one of timm's deit_*_distilled_*."),
    ("reg_token", "The file is a model with registers: take one of timm's vit_*_reg4_*."),
    ("ls1.gamma", "The file is a model with layer scale: take one of timm's vit_*_dinov2 or deit3_*."),
    ("qkv.bias", "The file's attention has biases: take the variant of timm's model whose name ends in _qkvb."),
    ("fc_norm.", """The file pools by average: add --model-kwargs '{"global_pool": "avg"}'."""),
)
_IN_THE_MODEL_ALONE = (
    ("norm_pre.", "The model is a CLIP tower, and the file is none."),
    ("attn_pool.", "The model pools by attention, and the file's does not: take its variant with _gap_ in the name."),
    ("fc_norm.", """The file has its norm before pooling: add --model-kwargs '{"fc_norm": false}'."""),
    ("reg_token", "The model has registers, and the file has none."),
    ("dist_token", "The model is a distilled DeiT, and the file is none."),
    ("ls1.gamma", "The model has layer scale, and the file has none."),
)
"""Part of a name to what it tells."""


@dataclass(frozen=True)
class Filled:
    """How a model was filled.

    Attributes:
        weights: the tensors of the body.
        classes: outputs of the head in the file; 0 where it has none for this model.
        layout: where the names come from.
        left_out: names in the file of what was not used.
        resampled: what was resampled to the model's patches or picture, in words; empty: nothing.
    """

    weights: int
    classes: int
    layout: str
    left_out: tuple[str, ...] = ()
    resampled: str = ""

    def in_words(self, state: StateDict) -> str:
        """Say in one line which weights were used."""
        average = "ema" in state.wrapper or state.wrapper == "teacher"
        parts = [
            f"all {self.weights} tensors of the body",
            f"{self.layout} layout",
            f"the average {state.wrapper}" if average else f"under {state.wrapper}" if state.wrapper else "",
            f"{self.classes} classes" if self.classes else "no head",
            self.resampled,
            f"left out {bounded(list(self.left_out), 3)}" if self.left_out else "",
        ]
        return f"{state.path.name}: {', '.join(filter(None, parts))}"


def fill(model: torch.nn.Module, state: StateDict, *, name: str, resample: bool, hint: str = "") -> Filled:
    """Load weights into a model of timm; afterwards its head has as many classes as the file's, or it has none.

    Args:
        model: freshly created; filled in place.
        state: what the checkpoint holds.
        name: of the model, for messages.
        resample: another size of patch or picture is resampled, as timm does.
        hint: what is known of the file from elsewhere, for messages.

    Raises:
        InputError: the body of the model is not filled to the last tensor; the message lists what is missing.
    """
    m: Any = model
    try:
        translated = in_timms_names(state.tensors, model)
    except InputError as error:
        raise InputError(f"The checkpoint {state.path} does not fit {name}. {error}") from error
    found = _through_timm(translated, model, state, name)
    heads = _head_names(model)
    classes = {int(found[f"{h}.weight"].shape[0]) if f"{h}.weight" in found else 0 for h in heads}
    outputs = classes.pop() if len(classes) == 1 else 0
    if outputs != m.num_classes:
        m.reset_classifier(outputs)
    expected = {key: tensor for key, tensor in model.state_dict().items() if not key.endswith(_COUNTER)}
    kept = {key: tensor for key, tensor in found.items() if outputs or not _of_head(key, heads)}
    kept = {key: tensor for key, tensor in kept.items() if not key.endswith(_COUNTER)}
    extra = [key for key in kept if key not in expected]
    strange = [key for key in extra if not _NO_PART_OF_A_BODY.match(key)]
    missing = sorted(expected.keys() - kept.keys())
    resized = _resized(translated.tensors, found) if not missing and not strange else []
    sizes = _sizes(translated.tensors, model) if resized else ("", "")
    if resized and not resample:
        raise InputError(
            f"The checkpoint {state.path} is for {sizes[0]}, and {name} takes {sizes[1]}. Take the model of its sizes, "
            f"or have {' and '.join(resized)} resampled: --image-size {int(m.patch_embed.img_size[0])}."
        )
    others = [key for key in sorted(expected.keys() & kept.keys()) if kept[key].shape != expected[key].shape]
    reshaped = [
        f"{key} is {tuple(kept[key].shape)} in the file and {tuple(expected[key].shape)} in the model" for key in others
    ]
    body = [key for key in expected if not _of_head(key, heads)]
    if missing or strange or reshaped:
        filled = len(set(body) - {*missing, *others})  # of the head, too, something can be missing
        faults = (("missing", missing), ("not in the model", sorted(strange)), ("of another shape", reshaped))
        parts = [f"{len(keys)} {what}: {bounded(keys)}" for what, keys in faults if keys]
        raise InputError(
            f"The checkpoint {state.path} ({translated.layout}) does not fit {name}: of the {len(body)} tensors of "
            f"its body it fills {filled}. Keys {'; '.join(parts)}. "
            f"{_why(strange, missing)}{_sizes_differ(found, model, name)}{hint}"
        )
    model.load_state_dict({key: kept[key] for key in expected}, strict=False)
    unused = [translated.prefix + key for key in found if key not in expected and not key.endswith(_COUNTER)]
    resampled = f"resampled from {sizes[0]}" if resized else ""
    return Filled(len(body), outputs, translated.layout, (*translated.left_out, *unused), resampled)


def _through_timm(
    translated: Translated, model: torch.nn.Module, state: StateDict, name: str
) -> dict[str, torch.Tensor]:
    """Hand the tensors to timm's own reader of this kind of model, which also resamples."""
    given = dict(translated.tensors)
    read = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if read is None:
        return given
    options: dict[str, Any] = {}
    if "adapt_layer_scale" in inspect.signature(read).parameters:  # DeiT III: gamma_1 is ls1.gamma
        options["adapt_layer_scale"] = any(re.search(r"\.gamma_[12]$", key) for key in given)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = dict(read(given, model, **options))
    except (RuntimeError, AssertionError, ValueError, KeyError, AttributeError, TypeError) as error:
        expected = model.state_dict().keys()
        strange = [key for key in given if key not in expected and not _NO_PART_OF_A_BODY.match(key)]
        why = _why(strange, [key for key in expected if key not in given])
        raise InputError(
            f"The checkpoint {state.path} ({translated.layout}) does not fit {name}: timm's reader of this kind of "
            f"model fails ({type(error).__name__}: {error}). {why}{_sizes_differ(given, model, name)}"
        ) from error
    if translated.layout == CLIP:  # timm makes a head of the projection beside the text
        found = {key: tensor for key, tensor in found.items() if not _of_head(key, _head_names(model))}
    return found


def _resized(given: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> list[str]:
    """Return what timm's reader resampled: tensors that have another number of elements, prefix tokens apart."""
    names = []
    for key, what in (("patch_embed.proj.weight", "its patch embedding"), ("pos_embed", "its position embedding")):
        if key in given and key in found:
            before = given[key].numel()
            if key == "pos_embed" and "register_tokens" in given:
                before -= given[key].shape[-1]
            names += [what] if before != found[key].numel() else []
    tables = [key for key in given if "relative_position" in key and key in found]
    moved = any(given[key].numel() != found[key].numel() for key in tables)
    return [*names, *(["its relative positions"] if moved else [])]


def _head_names(model: torch.nn.Module) -> tuple[str, ...]:
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    named = config.get("classifier") or "head"
    return (named,) if isinstance(named, str) else tuple(named)


def _of_head(key: str, heads: Sequence[str]) -> bool:
    return key.startswith(tuple(f"{head}." for head in heads))


def _why(strange: Sequence[str], missing: Sequence[str]) -> str:
    """Say what the names that do not fit tell of the file."""
    for keys, meanings in ((strange, _IN_THE_FILE_ALONE), (missing, _IN_THE_MODEL_ALONE)):
        for part, meaning in meanings:
            if any(part in key for key in keys):
                return f"{meaning} "
    return ""


def _sizes_differ(found: Mapping[str, torch.Tensor], model: torch.nn.Module, name: str) -> str:
    file, wanted = (_shape_in_words(tensors) for tensors in (found, model.state_dict()))
    if file and file != wanted:
        return f"The file holds {file}; {name} has {wanted}. Is the model name right?"
    return "Is the model name right?"


def _shape_in_words(tensors: Mapping[str, torch.Tensor]) -> str:
    blocks = {found[1] for key in tensors if (found := re.match(r"blocks\.(\d+)\.", key))}
    patch = tensors.get("patch_embed.proj.weight")
    if not blocks or patch is None or patch.dim() != 4:
        return ""
    return f"width {patch.shape[0]}, {len(blocks)} blocks, patches of {patch.shape[2]}×{patch.shape[3]}"


def _sizes(given: Mapping[str, torch.Tensor], model: torch.nn.Module) -> tuple[str, str]:
    """Return patch and picture of the file and of the model, in words."""
    m: Any = model
    patch, positions = given.get("patch_embed.proj.weight"), given.get("pos_embed")
    height, width = m.patch_embed.patch_size
    sides = m.patch_embed.img_size
    wanted = f"pictures of {sides[0]}×{sides[1]} in patches of {height}×{width}"
    side = int(patch.shape[-1]) if patch is not None and patch.dim() == 4 else int(width)
    if positions is None:
        return f"patches of {side}×{side}", wanted
    prefix = 0 if getattr(m, "no_embed_class", False) else int(getattr(m, "num_prefix_tokens", 1))
    tokens = int(positions.shape[1]) - (1 if "register_tokens" in given else prefix)
    grid = round(tokens**0.5)
    pictures = f"pictures of {grid * side}×{grid * side}" if grid**2 == tokens else f"{tokens} patches"
    return f"{pictures} in patches of {side}×{side}", wanted
