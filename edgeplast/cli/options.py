"""What options that several commands share mean: the model, the device and its budget."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeplast.budget import Budget
from edgeplast.errors import UsageError, one_of
from edgeplast.preprocessing import INTERPOLATIONS
from edgeplast.progress import Progress, silent
from edgeplast.pruning_target import check_ratio
from edgeplast.units import parse_bytes

if TYPE_CHECKING:
    import torch

    from edgeplast.placement import Placement
    from edgeplast.trust.signing import Signer
    from edgeplast_devices.device_profiles import Profile
    from edgeplast_devices.images import ImageSet


MODEL_HELP = (
    "timm's name of any model; local-dir:FOLDER or hf-hub:OWNER/NAME in timm's format; or the folder of a pruned model."
)
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="Weights: safetensors or a torch file, in timm's, DINOv2's, CLIP's or Hugging Face's layout; or a folder "
        "with one. config.json and preprocessor_config.json beside it decide how pictures are prepared.",
    ),
]
TrainOption = Annotated[
    str | None,
    typer.Option(
        help="What trains, by name: attn:8-11,norm,head; lora:8 or lora-fa:8 (A frozen), bias, norms, each also of "
        "some of the model: lora:8@attn:8-11."
    ),
]
PretrainedOption = Annotated[bool, typer.Option("--pretrained", help="Ask timm's hub for the weights.")]
ImageSizeOption = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        help="Side of the input in pixels (default: the model's); weights for another size are resampled to it.",
    ),
]
MeanOption = Annotated[
    str | None,
    typer.Option("--mean", help="Mean of the channels in 0..1, e.g. 0.485,0.456,0.406 (default: the weights')."),
]
StdOption = Annotated[str | None, typer.Option("--std", help="Standard deviation of the channels, likewise.")]
InterpolationOption = Annotated[
    str | None, typer.Option("--interpolation", help="nearest, bilinear, bicubic or lanczos (default: the weights').")
]
CropOption = Annotated[
    float | None,
    typer.Option("--crop", help="Side of the centre crop over that of the resized picture, e.g. 0.875."),
]
ModelKwargsOption = Annotated[
    str | None, typer.Option("--model-kwargs", help="JSON of further options of timm's model, or @file.json.")
]
RuntimeOption = Annotated[
    str,
    typer.Option("--runtime", help="Build of onnxruntime: auto (the one that is installed), ort-training or stock."),
]
ProviderOption = Annotated[
    str | None,
    typer.Option("--provider", help="What computes: cpu (default), cuda, tensorrt, coreml, directml, openvino."),
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="Defaults of a device; see `edgeplast devices`.")]
AdapterOption = Annotated[
    Path | None,
    typer.Option("--adapter", help="File or folder of `edgeplast detach`, put on the bundle first: its task instead."),
]
TrustedOption = Annotated[
    Path | None,
    typer.Option(
        "--trusted",
        help="Public keys, a file or a folder of them: refuse what none of them signed, before anything is parsed.",
    ),
]
SignOption = Annotated[
    Path | None, typer.Option("--sign", help="Sign the result with this private key; see `edgeplast keygen`.")
]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude", help="Leave out pictures whose path, folder or name is like this (* is anything); repeatable."
    ),
]
ExpiresOption = Annotated[
    float | None, typer.Option("--expires", help="Days after which the signature expires (default: never).")
]


def given_options(context: typer.Context, names: Iterable[str]) -> set[str]:
    """Return those options that were typed or stand in a run file."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return {name for name, source in sources.items() if source and source.name in ("COMMANDLINE", "DEFAULT_MAP")}


def network_of(
    model: str,
    *,
    checkpoint: Path | None,
    pretrained: bool,
    image_size: int | None,
    model_kwargs: str | None,
    pictures: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> torch.nn.Module:
    """Load the model that a command names, and say on standard error in one line what was used.

    Args:
        model: its name.
        checkpoint: its weights.
        pretrained: or those of timm's hub.
        image_size: side of its input in pixels.
        model_kwargs: JSON of further options of timm's model.
        pictures: from :func:`pictures_of`.
        progress: told that torch is loaded, and then the model: some seconds.

    Raises:
        UsageError: no source of weights is given, or the options cannot be read; see also ``models.load_model``.
    """
    check_model(model, checkpoint=checkpoint, pretrained=pretrained, image_size=image_size, model_kwargs=model_kwargs)
    from edgeplast.cli.console import say

    progress("loading torch and timm", 0, 0)
    from edgeplast.models import import_timm, load_model, source_of

    import_timm()
    progress(f"loading {model}", 0, 0)
    network = load_model(
        model,
        checkpoint=checkpoint,
        pretrained=pretrained,
        image_size=(image_size, image_size) if image_size else None,
        options=read_model_kwargs(model_kwargs),
        pictures=pictures,
    )
    progress(f"loading {model}", 1, 1)  # so that a line can follow
    source = source_of(network)
    if source and source.used and int(os.environ.get("RANK", "0")) == 0:  # under torchrun one process speaks
        say(f"{model}: {source.used}", err=True)
    return network


def pictures_of(
    mean: str | None = None, std: str | None = None, interpolation: str | None = None, crop: float | None = None
) -> dict[str, Any]:
    """Read how pictures are to be prepared: entries of timm's configuration for what was given.

    Raises:
        UsageError: one is out of range.
    """
    entries: dict[str, Any] = {}
    for option, text in (("mean", mean), ("std", std)):
        if text is not None:
            entries[option] = _channels(f"--{option}", text, above_zero=option == "std")
    if interpolation is not None:
        if interpolation not in INTERPOLATIONS:
            raise one_of("--interpolation", interpolation, INTERPOLATIONS)
        entries["interpolation"] = interpolation
    if crop is not None:
        if not 0 < crop <= 1:
            raise UsageError(f"--crop {crop:g} must be above 0 and at most 1, such as 0.875; 1 crops nothing.")
        entries["crop_pct"] = crop
    return entries


def _channels(option: str, text: str, *, above_zero: bool) -> tuple[float, ...]:
    """Read three numbers separated by commas, or one for all three channels."""
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3) or not all(math.isfinite(v) and (v > 0 or not above_zero) for v in values):
        allowed = "above 0" if above_zero else "finite"
        raise UsageError(
            f"Cannot read {option} {text!r}. Give three numbers for red, green and blue, {allowed}, such as "
            f"{option} 0.485,0.456,0.406; or one for all three."
        )
    return tuple(values * 3 if len(values) == 1 else values)


def check_model(
    model: str,
    *,
    checkpoint: Path | None,
    pretrained: bool,
    image_size: int | None = None,
    model_kwargs: str | None = None,
) -> None:
    """Raise if it can be told from the arguments of :func:`network_of` alone that it will fail; torch is not loaded.

    Raises:
        UsageError: the command does not say where the weights are (pruned models and names with a source bring their
            own), says it twice, or an option cannot be read.
        InputError: there is no such checkpoint, or it holds something else.
    """
    from edgeplast.pretrained.names import brings_weights, check_sources

    if image_size is not None and image_size < 1:
        raise UsageError(f"--image-size {image_size} must be a positive number of pixels, such as 224.")
    options = read_model_kwargs(model_kwargs)
    check_sources(model, checkpoint=checkpoint, pretrained=pretrained, image_size=image_size, options=options)
    if checkpoint is None and not pretrained and not brings_weights(model):
        raise UsageError("Where are the weights? Give --checkpoint FILE, or --pretrained to ask timm's hub.")


def budget_of(
    memory: str | None, profile: Profile | None, *, disk: str | None = None, step_seconds: float | None = None
) -> Budget:
    """Put the limits of a command together; ``--memory`` goes before the profile's budget, and "none" lifts it.

    Raises:
        UsageError: a size cannot be read.
    """
    if memory is not None:
        memory_bytes = None if memory.strip().lower() == "none" else parse_bytes(memory)
    else:
        memory_bytes = profile.budget_bytes if profile else None
    disk_bytes = None if disk is None else parse_bytes(disk)
    return Budget(memory_bytes=memory_bytes, disk_bytes=disk_bytes, step_seconds=step_seconds)


def profile_of(device: str | None) -> Profile | None:
    """Return the profile that ``--device`` names, if it was given.

    Raises:
        UsageError: there is no such profile.
    """
    if device is None:
        return None
    from edgeplast_devices.device_profiles import profile_defaults

    return profile_defaults(device)


def provider_of(provider: str | None, profile: Profile | None = None) -> str:
    """Return what computes: ``--provider``, else the profile's, else the CPU.

    Raises:
        UsageError: there is no such provider.
    """
    from edgeplast_devices.providers import CPU, PROVIDERS

    if provider is None:
        return profile.provider if profile else CPU
    if provider not in PROVIDERS:
        raise one_of("provider", provider, PROVIDERS)
    return provider


def trusted_of(trusted: Path | None, profile: Profile | None) -> Path | None:
    """Return whose signatures are asked for: ``--trusted``, else the profile's, else nobody's."""
    return Path(profile.trusted) if trusted is None and profile and profile.trusted else trusted


def sign_of(sign: Path | None, profile: Profile | None) -> Path | None:
    """Return the key that signs: ``--sign``, else the profile's, else none."""
    return Path(profile.sign) if sign is None and profile and profile.sign else sign


def signer_with(key: Path | None, days: float | None) -> Signer | None:
    """Return who signs with a key, for so many days; None without a key.

    Raises:
        UsageError: days without a key, too many of them, or the key may be read by others.
        InputError: there is no such key.
    """
    if key is None:
        if days is not None:
            raise UsageError("--expires says until when a signature holds. Give --sign KEY with it.")
        return None
    from edgeplast.trust.signing import signer_of

    return signer_of(key, days)


def threads_of(threads: int | None, profile: Profile | None) -> int | None:
    """Return how many threads compute: ``--threads``, else the profile's, else as many as can."""
    return profile.threads if threads is None and profile else threads


def runtime_text(runtime: str, placement: Placement) -> str:
    """Put build and provider into a few words, e.g. ``stock 1.32.0 on cpu (cuda was asked for)``."""
    asked = f" ({placement.asked} was asked for)" if placement.asked != placement.used else ""
    return f"{runtime} on {placement.used}{asked}"


def labelled_images(data: Path, *, split: str | None = None, quiet: bool = False, **how: Any) -> ImageSet:
    """Open the images that a command names, and say on standard error what they were taken for.

    Args:
        data: a folder, archive or npz.
        split: ``train``, ``val`` or ``test``.
        quiet: say nothing.
        **how: see ``edgeplast_devices.images.open_images``.
    """
    from edgeplast.cli.console import say
    from edgeplast_devices.images import open_images, understood

    images = open_images(data, split, **how)
    for line in () if quiet else understood(images):
        say(line, err=True)
    return images


def read_model_kwargs(given: str | None) -> dict[str, Any]:
    """Read ``--model-kwargs``: a JSON object, or ``@`` and the name of a file that holds one.

    Raises:
        UsageError: it is neither.
    """
    if given is None:
        return {}
    import json

    try:
        text = Path(given[1:]).read_text() if given.startswith("@") else given
        content = json.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"Cannot read --model-kwargs {given!r}: {error}. "
            """Give a JSON object such as '{"depth": 4}', or @file.json."""
        ) from error
    if not isinstance(content, dict):
        raise UsageError(f"""--model-kwargs {given!r} is no JSON object. Give one such as '{{"depth": 4}}'.""")
    return content


def read_ratios(given: Sequence[str] | None) -> dict[str, float]:
    """Read ``--ratio COMPONENT=SHARE``, given any number of times.

    Raises:
        UsageError: one is not of that form, or a component is named twice.
    """
    ratios: dict[str, float] = {}
    for text in given or ():
        name, _, share = text.partition("=")
        try:
            ratio = float(share)
        except ValueError as error:
            raise UsageError(
                f"Cannot read --ratio {text!r}. Give a component and the share of its heads or hidden units to take "
                "out: --ratio blocks.3.fc1=0.5"
            ) from error
        if name in ratios:
            raise UsageError(f"--ratio names {name!r} twice. Give each component once.")
        ratios[name] = ratio
    for name, ratio in ratios.items():
        check_ratio(name, ratio)
    return ratios
