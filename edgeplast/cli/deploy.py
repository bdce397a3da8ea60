"""``edgeplast deploy``: from an adapted bundle to one ONNX file, in float32 or with 8-bit matrix products."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeplast.cli.console import print_json, print_table, progress_bar, say
from edgeplast.cli.options import (
    AdapterOption,
    DeviceOption,
    SignOption,
    TrustedOption,
    profile_of,
    sign_of,
    threads_of,
    trusted_of,
)
from edgeplast.deployment import Deployment
from edgeplast.errors import UsageError
from edgeplast.units import format_bytes


def deploy(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, usually an adapted one.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX file to write.")],
    adapter: AdapterOption = None,
    weight_bits: Annotated[int, typer.Option(help="32, or 8: matrix products in 8 bits; needs --data and onnx.")] = 32,
    data: Annotated[
        Path | None, typer.Option(help="With --weight-bits 8: this device's labelled images, to calibrate and measure.")
    ] = None,
    calibration_images: Annotated[int, typer.Option(help="With --weight-bits 8: pictures to calibrate on.")] = 64,
    threads: Annotated[int | None, typer.Option(help="Of the runtime (default: all usable cores).", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the pictures to calibrate on.")] = 0,
    device: DeviceOption = None,
    trusted: TrustedOption = None,
    sign: SignOption = None,
    temperature: Annotated[
        bool,
        typer.Option(
            "--temperature/--no-temperature", help="Let the model divide its logits by the bundle's temperature."
        ),
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print file and size as JSON, accuracies if quantized.")
    ] = False,
) -> None:
    """Write the model as one ONNX file (opset 17), class names and preprocessing in its metadata."""
    from edgeplast import compressing, verbs

    if weight_bits not in (32, 8):
        raise UsageError(f"--weight-bits {weight_bits} is not possible for a deployed model. Known: 32, 8.")
    if (weight_bits == 8) != (data is not None):
        raise UsageError(
            "--weight-bits 8 and --data go together: activation ranges are calibrated on this device's images. "
            f"Write: edgeplast deploy {bundle} -o {output} --weight-bits 8 --data images/"
        )
    profile = profile_of(device)
    with progress_bar(as_json, doing=f"opening {bundle if data is None else data}") as progress:
        if data is not None:
            deployment = compressing.deploy_quantized(
                bundle,
                output,
                data,
                adapter=adapter,
                calibration_images=calibration_images,
                threads=threads_of(threads, profile),
                seed=seed,
                temperature=temperature,
                force=force,
                trusted=trusted_of(trusted, profile),
                sign=sign_of(sign, profile),
                progress=progress,
            )
        else:
            verbs.deploy(
                bundle,
                output,
                adapter=adapter,
                temperature=temperature,
                force=force,
                trusted=trusted_of(trusted, profile),
                sign=sign_of(sign, profile),
                progress=progress,
            )
    if data is not None:
        _show(deployment, output, as_json)
        return
    size = output.stat().st_size
    if as_json:
        print_json("deployment", {"bytes": size}, output)
    else:
        say(f"Written: {output} ({format_bytes(size)})  (next: edgeplast predict {output} photo.jpg)")


def _show(deployment: Deployment, output: Path, as_json: bool) -> None:
    warning = deployment.warning
    if warning:
        say(f"warning: {warning}", err=True)
    if as_json:
        print_json("deployment", {**msgspec.to_builtins(deployment), "warning": warning})
        return
    before, after = deployment.accuracy.before, deployment.accuracy.after
    assert before is not None and after is not None
    rows = [
        (f"accuracy ({deployment.measured_on}, {deployment.images} pictures)", f"{before:.1%} → {after:.1%}"),
        ("calibrated on", f"{deployment.calibrated_on} pictures of train"),
        ("kept in float32", ", ".join((*deployment.kept_float, "head"))),
        ("size", format_bytes(deployment.bytes)),
    ]
    print_table("", ("quantized to 8 bits", ""), rows)
    say(f"\nWritten: {output}  (next: edgeplast predict {output} photo.jpg)")
