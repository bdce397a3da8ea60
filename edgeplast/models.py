"""Getting hold of a vision model: from timm by name, from a checkpoint, or the user's own module.

A model name, checkpoint and class names go in; a ``torch.nn.Module`` in evaluation mode, its
:class:`~edgeplast.architecture.Architecture` and its :class:`~edgeplast.preprocessing.Preprocessing` come out.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgeplast.architecture import Architecture
from edgeplast.components import component_of
from edgeplast.copying import copied
from edgeplast.errors import InputError, missing_offline
from edgeplast.files import possible
from edgeplast.model_facts import check_finite as check_finite
from edgeplast.model_facts import input_shape_of as input_shape_of
from edgeplast.model_facts import name_of as name_of
from edgeplast.model_facts import timm_name as _timm_name
from edgeplast.preprocessing import Preprocessing
from edgeplast.pretrained.configuration import check_activation, read_configuration
from edgeplast.pretrained.files import read_state_dict
from edgeplast.pretrained.fitting import fill
from edgeplast.pretrained.names import LOCAL, brings_weights, check_sources, unknown_model
from edgeplast.pruned import is_pruned

if TYPE_CHECKING:
    import torch

FAMILY = (
    "models built like timm's VisionTransformer: ViT, AugReg, DeiT (with or without distillation token), "
    "DINO, CLIP and SigLIP image towers pooled by token or average"
)

_torchvision_schemas: Any = None


def import_timm() -> ModuleType:
    """Import timm, also where torchvision's operator library does not load.

    torchvision's package on the index is a CUDA build. Beside a CPU-only torch its operators are missing and
    ``import torchvision`` dies with "operator torchvision::nms does not exist". Nothing here calls them, so
    declaring their schemas is enough; the Library object must stay alive, its definitions go with it.

    Raises:
        MissingExtraError: torch or timm is not installed.
    """
    global _torchvision_schemas
    try:
        import torch

        if _torchvision_schemas is None and not hasattr(torch.ops.torchvision, "nms"):
            try:
                import torchvision  # noqa: F401
            except RuntimeError:
                library = torch.library.Library("torchvision", "DEF")
                for name in ("nms", "qnms"):
                    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                _torchvision_schemas = library
        import timm
    except ModuleNotFoundError as error:
        raise missing_offline(error, "scoring and exporting need it (adapting on a device does not)") from error
    module: ModuleType = timm
    return module


@dataclass(frozen=True)
class Source:
    """How a model was made, so that a pruned one can be made again.

    Attributes:
        name: timm's name.
        options: of timm's model.
        kept_fraction: component to its parameters over those before pruning; empty where nothing was pruned.
        used: which weights and which preparation of pictures, in one line; empty where nothing was read.
    """

    name: str
    options: dict[str, Any]
    kept_fraction: dict[str, float]
    used: str = ""


def source_of(model: torch.nn.Module) -> Source | None:
    """Return how a model was made; None for a module that :func:`load_model` did not make."""
    return model.__dict__.get("edgeplast_source")


def remember(
    model: torch.nn.Module,
    name: str,
    options: Mapping[str, Any],
    kept_fraction: Mapping[str, float] | None = None,
    used: str = "",
) -> None:
    """Note on a model how it was made; copies of it keep the note."""
    model.__dict__["edgeplast_source"] = Source(name, dict(options), dict(kept_fraction or {}), used)


def load_model(
    name: str | Path,
    *,
    checkpoint: str | Path | None = None,
    pretrained: bool = False,
    image_size: tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
    pictures: Mapping[str, Any] | None = None,
) -> torch.nn.Module:
    """Create a model of timm and fill it from a checkpoint or from timm's hub, or open a pruned one.

    Args:
        name: timm's model name, e.g. ``vit_tiny_patch16_224``; ``local-dir:FOLDER`` or ``hf-hub:OWNER/NAME``, which
            bring their weights; or the folder of a pruned model, which brings its weights and sizes.
        checkpoint: safetensors or a torch file (read with ``weights_only=True``), or a folder with one; in timm's
            layout or another known one (:mod:`edgeplast.pretrained.layouts`). The number of classes of its head is
            taken over; without a head the model has none (``num_classes`` 0). ``config.json`` and
            ``preprocessor_config.json`` beside it decide how pictures are prepared.
        pretrained: ask timm's hub for the weights instead.
        image_size: height and width in pixels; only then are weights of another size resampled.
        options: further arguments of timm's model, e.g. ``{"embed_dim": 96, "depth": 4}``.
        pictures: overrides how pictures are prepared: ``mean``, ``std``, ``interpolation``, ``crop_pct``.

    Returns:
        the model in evaluation mode, its head as in the checkpoint; ``source_of(model).used`` says what was used.

    Raises:
        UsageError: no such model, or both or neither source of weights given.
        InputError: the checkpoint does not fit.
    """
    name, checkpoint = str(name), None if checkpoint is None else possible(checkpoint)
    check_sources(name, checkpoint=checkpoint, pretrained=pretrained, image_size=image_size, options=options)
    timm = import_timm()
    if is_pruned(name):
        from edgeplast.reshaping import load_pruned

        model = load_pruned(Path(name))
        set_pictures(model, pictures or {})
        return model
    if not brings_weights(name) and not timm.is_model(name):
        raise unknown_model(name, timm)
    if name.lower().startswith(LOCAL) and checkpoint is None:  # filled here, so that its faults have names
        checkpoint = Path(name[len(LOCAL) :])
    state = read_state_dict(checkpoint) if checkpoint is not None else None
    arguments = dict(options or {}) | ({} if image_size is None else {"img_size": image_size})
    model = create(name, arguments, pretrained=pretrained or (brings_weights(name) and state is None))
    if brings_weights(name):
        arguments = {**getattr(model, "_model_args", {}), **arguments}
    m: Any = model
    used, decided_by = "weights from timm's hub" if pretrained or brings_weights(name) else "random weights", ""
    if state is not None:
        resample = bool({"img_size", "patch_size"} & arguments.keys())
        configuration = read_configuration(state.path.parent)
        hint = f" Beside it, config.json names {configuration.architecture}." if configuration.architecture else ""
        filled = fill(model, state, name=name, resample=resample, hint=hint)
        check_activation(model, configuration.activation, name)
        set_pictures(model, configuration.pictures)
        used, decided_by = filled.in_words(state), " and ".join(configuration.files if configuration.pictures else ())
        arguments["num_classes"] = m.num_classes
    set_pictures(model, pictures or {})
    if pictures:
        decided_by = " and ".join(filter(None, (decided_by, "options")))
    used = f"{used}; pictures: {preprocessing_of(model)} ({decided_by or 'from timm'})"
    remember(model, _timm_name(model) if brings_weights(name) else name, arguments, used=used)
    return model.eval()


def create(name: str, options: Mapping[str, Any], *, pretrained: bool = False) -> torch.nn.Module:
    """Let timm create a model.

    Raises:
        InputError: timm cannot.
    """
    timm = import_timm()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: torch.nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # of its own, of the hub's client, and of whatever carries that one's requests
        if "img_size" in str(error):
            raise InputError(
                f"{name} has no img_size: it takes pictures of any size. Leave --image-size out."
            ) from error
        if isinstance(error, KeyError) and "architecture" in str(error):
            raise InputError(
                f"{name} has a config.json that names no architecture of timm's: a repository of another library, such "
                "as transformers. Give timm's name of the model, and the file as --checkpoint: "
                "edgeplast export vit_base_patch16_224 --checkpoint FOLDER …"
            ) from error
        raise InputError(f"timm cannot create {name}: {error or type(error).__name__}") from error
    return model


def set_pictures(model: torch.nn.Module, entries: Mapping[str, Any]) -> None:
    """Override how a model's pictures are prepared: entries of timm's ``pretrained_cfg``, which copies keep.

    Raises:
        InputError: a value is out of range.
    """
    if entries:
        m: Any = model
        m.pretrained_cfg = {**(getattr(model, "pretrained_cfg", None) or {}), **entries}
        preprocessing_of(model)


def pictures_of(model: torch.nn.Module) -> dict[str, Any]:
    """Return what :func:`set_pictures` would need to prepare another model's pictures alike."""
    how = preprocessing_of(model)
    return {
        "mean": how.mean,
        "std": how.std,
        "interpolation": how.interpolation,
        "crop_pct": how.crop_fraction,
        "crop_mode": how.crop_mode,
    }


def check_family(model: torch.nn.Module, name: str | None = None, *, what_for: str = "Pruning") -> None:
    """Raise unless the module is a vision transformer whose parts the vocabulary can name.

    Raises:
        InputError: the model is outside the family; the message says why, what is inside, and ``what_for``.
    """
    what = name or type(model).__name__
    missing = [part for part in ("patch_embed", "blocks", "head") if not hasattr(model, part)]
    if missing:
        raise InputError(
            f"{what} is no plain vision transformer: it has no {' and no '.join(missing)}. {what_for} takes {FAMILY}."
        )
    blocks: Any = model.blocks
    for i, block in enumerate(blocks):
        absent = [part for part in ("norm1", "attn", "norm2", "mlp") if not hasattr(block, part)]
        if absent or not hasattr(block.attn, "qkv"):
            raise InputError(
                f"{what} is no plain vision transformer: blocks.{i} is a {type(block).__name__} "
                f"without {', '.join(absent) or 'attn.qkv'}. {what_for} takes {FAMILY}."
            )
    for parameter, _ in model.named_parameters():
        component_of(parameter)


def describe(model: torch.nn.Module, name: str | None = None) -> Architecture:
    """Return the sizes of a model of the family.

    Raises:
        InputError: the model is outside the family.
    """
    check_family(model, name)
    m: Any = model
    parameters: dict[str, int] = {}
    for parameter, tensor in model.named_parameters():
        component = component_of(parameter)
        parameters[component] = parameters.get(component, 0) + tensor.numel()
    size = m.patch_embed.img_size
    prefix = getattr(m, "num_prefix_tokens", 0)
    source = source_of(model)
    if not has_head(model):
        raise InputError(
            f"{name or _timm_name(model)} is a backbone without a head. Give it one: "
            "edgeplast.models.with_classes(model, 3); the verbs of edgeplast do that themselves."
        )
    return Architecture(
        model=name or m.__dict__.get("edgeplast_name") or _timm_name(model),
        image_size=(int(size[0]), int(size[1])),
        tokens=int(m.patch_embed.num_patches) + int(prefix),
        width=int(m.embed_dim),
        depth=len(m.blocks),
        heads=tuple(int(block.attn.num_heads) for block in m.blocks),
        mlp_width=tuple(int(block.mlp.fc2.in_features) for block in m.blocks),
        classes=int(m.num_classes),
        parameters=parameters,
        pooled_tokens=pooled_tokens(model),
        kept_fraction=dict(source.kept_fraction) if source else {},
    )


def pooled_tokens(model: torch.nn.Module) -> int | None:
    """Return how many leading tokens the head reads, or None when it reads the average of all.

    Raises:
        InputError: the model pools in another way.
    """
    m: Any = model
    if getattr(m, "attn_pool", None) is not None:
        raise InputError(f"attn_pool is a {type(m.attn_pool).__name__}. Supported are token and average pooling.")
    if m.global_pool == "token":
        return 2 if getattr(m, "dist_token", None) is not None else 1
    if m.global_pool == "avg":
        return None
    raise InputError(f"global_pool={m.global_pool!r} is not supported. Supported are 'token' and 'avg'.")


def preprocessing_of(model: torch.nn.Module) -> Preprocessing:
    """Return the evaluation preprocessing that timm's data configuration gives for a model.

    A model of one channel whose configuration is for three gets their mean: pictures come as grey.

    Raises:
        InputError: timm does not know the model, or its configuration is out of range or for other channels.
    """
    import_timm()
    from timm.data.config import resolve_model_data_config

    config = resolve_model_data_config(model)
    channels, height, width = input_shape_of(model)
    mean, std = (tuple(float(v) for v in config[key]) for key in ("mean", "std"))
    if channels == 1 < len(mean):
        mean, std = ((sum(values) / len(values),) for values in (mean, std))
    if len(mean) != channels:
        raise InputError(
            f"The model takes {channels} channels, and what is known of its pictures is for {len(mean)}. Say how they "
            f"are prepared: preprocessing=edgeplast.Preprocessing(image_size=({height}, {width}), mean=…, std=…) with "
            f"{channels} values each."
        )
    return Preprocessing(
        image_size=(height, width),
        mean=mean,
        std=std,
        interpolation=config["interpolation"],
        crop_fraction=float(config["crop_pct"]),
        crop_mode=config.get("crop_mode") or "center",
    )


def with_classes(model: torch.nn.Module, classes: int, *, seed: int = 0) -> torch.nn.Module:
    """Return a copy of the model with a fresh head for ``classes`` classes; the input is not changed.

    The new head starts at zero (bias included), as in the ViT papers' fine-tuning: every class is equally
    likely at the first step, and the result does not depend on an initial draw.

    Args:
        model: timm's, or any module whose last Linear makes the logits.
        classes: outputs of the new head, at least 2.
        seed: of timm's own initialisation of whatever else a new head brings.

    Raises:
        InputError: there is no head to replace.
    """
    import torch

    m: Any = copied(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if hasattr(m, "reset_classifier"):
            m.reset_classifier(classes)
        else:
            _replace_last_linear(m, classes)
    for head in heads_of(m):
        torch.nn.init.zeros_(head.weight)
        if head.bias is not None:
            torch.nn.init.zeros_(head.bias)
    return m.eval()


def heads_of(model: torch.nn.Module) -> list[Any]:
    """Return the modules with weights that make the logits: timm's classifiers, or the last Linear."""
    import torch

    m: Any = model
    if hasattr(m, "get_classifier"):
        found = m.get_classifier()
        heads = list(found) if isinstance(found, tuple | list | torch.nn.ModuleList) else [found]
        heads += [] if getattr(m, "head_dist", None) is None else [m.head_dist]
        return [h for h in dict.fromkeys(heads) if isinstance(getattr(h, "weight", None), torch.nn.Parameter)]
    return [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1:]


def _replace_last_linear(model: torch.nn.Module, classes: int) -> None:
    import torch

    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if not linears:
        raise InputError(
            f"{type(model).__name__} has no Linear that a new head could take the place of. Give it one, or export it "
            "with its own head: keep_head=True, --keep-head."
        )
    path, _, name = linears[-1].rpartition(".")
    old: Any = model.get_submodule(linears[-1])
    setattr(model.get_submodule(path), name, torch.nn.Linear(old.in_features, classes, bias=old.bias is not None))


def has_head(model: torch.nn.Module) -> bool:
    """Whether a model classifies; a backbone alone, such as every DINOv2, does not."""
    import torch

    m: Any = model
    return not isinstance(m.get_classifier() if hasattr(m, "get_classifier") else None, torch.nn.Identity)


def with_head(model: torch.nn.Module, classes: int) -> torch.nn.Module:
    """Return the model itself, or for a backbone alone a copy with a fresh head for so many classes, at least 2."""
    return model if has_head(model) else with_classes(model, max(2, classes))
