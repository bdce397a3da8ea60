"""What a Jetson's JetPack says about CUDA: where the wheel comes from that fits, and what it takes."""

from __future__ import annotations

import re

from edgeplast_devices.doctor.findings import Finding, passed, skipped

_JETPACK_OF = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7, 39: 7}
"""Release of NVIDIA's Linux for Tegra to JetPack."""

_MEMORY = (
    "CUDA takes 1,750 MB of the memory that processor and GPU share, where the processor alone takes 300 MB "
    "(onnxruntime#14038)"
)
_NEWER = "https://aiinfra.pkgs.visualstudio.com/PublicPackages/_packaging/ort-cuda-13-nightly/pypi/simple/"
FEEDS = {
    6: "pip install onnxruntime-gpu --index-url https://pypi.jetson-ai-lab.io/jp6/cu126",
    7: f"pip install --pre onnxruntime-gpu --index-url {_NEWER}",
}
"""The wheels are not on PyPI: NVIDIA's feed for JetPack 6, onnxruntime's of CUDA 13 for newer (onnxruntime#27944)."""


def check_jetpack(tegra_release: str) -> Finding:
    """Say which JetPack this is, and how CUDA could be had.

    Args:
        tegra_release: first line of ``/etc/nv_tegra_release``; empty where this is no Jetson.
    """
    found = re.match(r"R(\d+)", tegra_release)
    if found is None:
        return skipped("jetpack", "this is no Jetson" if not tegra_release else f"cannot read {tegra_release[:60]!r}")
    release = int(found[1])
    version = _JETPACK_OF.get(release, 7 if release > max(_JETPACK_OF) else 4)
    here = f"JetPack {version} (L4T R{release})"
    if version not in FEEDS:
        return passed("jetpack", f"{here}: no wheel of onnxruntime with CUDA fits Python 3.10; use the processor")
    tried = "" if version == 6 else ", and of these wheels not all have kernels for an Orin: try one run"
    return passed("jetpack", f"{here}. For CUDA instead of the processor: {FEEDS[version]}; {_MEMORY}{tried}")
