"""What a Jetson's JetPack says about CUDA: where a wheel is to be had that fits, and what it takes."""

from __future__ import annotations

import re

from edgeplast_devices.doctor.findings import Finding, passed, skipped

_JETPACK_OF = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7, 39: 7}
"""Release of NVIDIA's Linux for Tegra to JetPack, of those that a Jetson runs; 33 and 37 are none's."""

_MEMORY = (
    "One model took 1,750 MiB with CUDA on a Xavier NX, of the memory that processor and GPU share, and 300 without "
    "(https://github.com/microsoft/onnxruntime/issues/14038)"
)
_WHEELS = {
    6: "NVIDIA's wheel is not on PyPI: pip install onnxruntime-gpu --index-url https://pypi.jetson-ai-lab.io/jp6/cu126",
    7: "look for onnxruntime-gpu for CUDA 13 and aarch64, which is not on PyPI; onnxruntime's developers say where "
    "(https://github.com/microsoft/onnxruntime/issues/27944)",
}
"""How the GPU could compute; the command is that of those who build the wheels:
https://github.com/dusty-nv/jetson-containers/issues/1283"""


def check_jetpack(tegra_release: str) -> Finding:
    """Say which JetPack this is, and how CUDA could be had.

    Args:
        tegra_release: first line of ``/etc/nv_tegra_release``, which only a Jetson has.
    """
    found = re.match(r"R(\d+)", tegra_release)
    if found is None:
        return skipped("jetpack", f"cannot read {tegra_release[:60]!r} in /etc/nv_tegra_release")
    version = _JETPACK_OF.get(int(found[1]))
    if version is None:
        return passed("jetpack", f"unknown (L4T R{found[1]}), and so is a wheel with CUDA for it; use the processor")
    here = f"JetPack {version} (L4T R{found[1]})"
    if version not in _WHEELS:
        return passed("jetpack", f"{here}: no wheel of onnxruntime with CUDA fits Python 3.10; use the processor")
    return passed("jetpack", f"{here}. For CUDA instead of the processor, {_WHEELS[version]}. {_MEMORY}")
