"""The JSON beside the weights: timm's ``config.json``, transformers' ``config.json`` and ``preprocessor_config.json``.

They decide mean, standard deviation, crop and interpolation; sources: ``timm.models._hub`` and
``transformers.image_processing_*``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeplast.errors import InputError
from edgeplast.preprocessing import INTERPOLATIONS

if TYPE_CHECKING:
    import torch

MODEL_FILE, PICTURES_FILE = "config.json", "preprocessor_config.json"

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which transformers writes."""

_TAKEN_FROM_TIMM = ("mean", "std", "interpolation", "crop_pct", "crop_mode")


@dataclass(frozen=True)
class Configuration:
    """What stands beside the weights.

    Attributes:
        files: that were read, by name.
        pictures: entries of timm's ``pretrained_cfg`` for the pictures: mean, std, interpolation, crop_pct, crop_mode.
        architecture: timm's name, or transformers' model type; ``""`` where none is named.
        activation: of the MLP in transformers' words, e.g. ``quick_gelu``; ``""`` where none is named.
    """

    files: tuple[str, ...] = ()
    pictures: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = ""
    activation: str = ""


def read_configuration(folder: Path) -> Configuration:
    """Read what there is beside a checkpoint; nothing there is nothing said.

    Raises:
        InputError: a file is no JSON object, or asks for preparation that devices do not do.
    """
    model, pictures = _read(folder / MODEL_FILE), _read(folder / PICTURES_FILE)
    files: list[str] = []
    taken: dict[str, Any] = {}
    architecture, activation = "", ""
    if model is not None:
        vision = model.get("vision_config") if isinstance(model.get("vision_config"), dict) else model
        assert vision is not None
        architecture = str(model.get("architecture") or model.get("model_type") or "")
        activation = str(vision.get("hidden_act") or "")
        timms = model.get("pretrained_cfg", model)
        if "architecture" in model and isinstance(timms, dict):
            taken = {key: timms[key] for key in _TAKEN_FROM_TIMM if timms.get(key)}
        files.append(MODEL_FILE)
    if pictures is not None:
        taken |= _of_transformers(pictures, folder / PICTURES_FILE)
        files.append(PICTURES_FILE)
    _check(taken, folder / (PICTURES_FILE if pictures is not None else MODEL_FILE))
    return Configuration(tuple(files), taken, architecture, activation)


def check_activation(model: torch.nn.Module, activation: str, name: str) -> None:
    """Refuse CLIP weights trained with the quick GELU in a model with the exact one, and the other way round.

    Args:
        model: that was filled.
        activation: from :class:`Configuration`.
        name: of the model, for messages.

    Raises:
        InputError: the model computes another activation.
    """
    if not activation:
        return
    quick = any("quick" in type(module).__name__.lower() for module in model.modules())
    if quick != (activation == "quick_gelu"):
        which = "quick_gelu" if activation == "quick_gelu" else "gelu"
        raise InputError(
            f"config.json beside the weights says that they were trained with {activation}, and {name} computes "
            f"{'quick_gelu' if quick else 'gelu'}: the features would be wrong. Take timm's model "
            f"{'with' if which == 'quick_gelu' else 'without'} quickgelu in its name, or add --model-kwargs "
            f"""'{{"act_layer": "{which}"}}'."""
        )


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} beside the weights cannot be read: {error}. Mend it or move it away.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} beside the weights is no JSON object. Mend it or move it away.")
    return content


def _of_transformers(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Translate an image processor's settings into timm's."""
    taken: dict[str, Any] = {}
    factor = config.get("rescale_factor", 1 / 255)
    scaled = config.get("do_rescale", True) and isinstance(factor, int | float) and abs(factor * 255 - 1) < 1e-3
    if not scaled:
        raise InputError(
            f"{path} beside the weights does not scale pictures to 0..1 (do_rescale {config.get('do_rescale')}, "
            f"rescale_factor {factor}), and devices always do. Give --mean and --std that suit, and move the file away."
        )
    if not config.get("do_normalize", True):
        taken |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    else:
        taken |= {key: config[f"image_{key}"] for key in ("mean", "std") if config.get(f"image_{key}") is not None}
    resample = config.get("resample")
    if isinstance(resample, int) and resample in _RESAMPLING:
        taken["interpolation"] = _RESAMPLING[resample]
    size, crop = config.get("size"), config.get("crop_size")
    squashed = not (isinstance(size, dict) and "shortest_edge" in size) and "CLIP" not in str(
        config.get("image_processor_type") or config.get("feature_extractor_type")
    )
    taken["crop_mode"] = "squash" if squashed else "center"
    resized, cut = _side(size), _side(crop) if config.get("do_center_crop", False) else None
    taken["crop_pct"] = cut / resized if cut and resized and cut <= resized else 1.0
    return taken


def _side(size: Any) -> int | None:
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size.get("height")
    return size if isinstance(size, int) and size > 0 else None


def _check(taken: dict[str, Any], path: Path) -> None:
    for key in ("mean", "std"):
        values = taken.get(key)
        if values is None:
            continue
        if not isinstance(values, list | tuple) or not all(map(_is_number, values)) or len(values) != 3:
            raise InputError(
                f"{path} beside the weights: {key} is {repr(values)[:200]}; three numbers are needed, for RGB."
            )
        taken[key] = tuple(float(v) for v in values)
    if not _is_number(fraction := taken.get("crop_pct", 1.0)) or not 0 < fraction <= 1:
        raise InputError(
            f"{path} beside the weights: crop_pct is {str(fraction)[:200]}; it is a number above 0, up to 1. Mend "
            "it, or give --crop and move the file away."
        )
    if (mode := taken.get("crop_mode", "center")) not in ("center", "squash", "border"):
        raise InputError(
            f"{path} beside the weights: crop_mode is {str(mode)[:200]}; known: center, squash, border. Mend it."
        )
    if (interpolation := taken.get("interpolation", "bicubic")) not in INTERPOLATIONS:
        raise InputError(
            f"{path} beside the weights: interpolation {str(interpolation)[:200]!r} is not known; known: "
            f"{', '.join(INTERPOLATIONS)}. Mend it, or give --interpolation and move the file away."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
