"""Makes the practice model that the doctor trains where there is no bundle: two layers, 2 KB, by the exporters.

Write it anew with ``python tests/devices/profiles/make_practice_graph.py`` after a change of the exporters; a test
compares the file with what this makes.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
INPUTS, HIDDEN, CLASSES = 8, 16, 4


def practice_graph() -> bytes:
    """Norm, linear, GELU, linear, cross-entropy, and the gradients: the operators of a transformer's MLP."""
    from edgeplast.graphs.graph import Graph
    from edgeplast.graphs.training import LOGITS
    from edgeplast_exporters.onnx_writer import to_onnx
    from edgeplast_exporters.training import promote, training_graph

    g = Graph()
    images = g.input("images", (1, INPUTS), batched=True)
    shapes = {
        "norm.weight": (INPUTS,),
        "norm.bias": (INPUTS,),
        "fc.weight": (HIDDEN, INPUTS),
        "fc.bias": (HIDDEN,),
        "head.weight": (CLASSES, HIDDEN),
        "head.bias": (CLASSES,),
    }
    p = {name: g.weight(name, shape) for name, shape in shapes.items()}
    with g.serving("practice"):
        x, _, _ = g.layer_norm(images, p["norm.weight"], p["norm.bias"], 1e-6)
        x = g.unary("Gelu", g.gemm(x, p["fc.weight"], p["fc.bias"], trans_b=True))
        g.output(g.gemm(x, p["head.weight"], p["head.bias"], trans_b=True, name=LOGITS))
    return to_onnx(training_graph(promote(g, list(shapes)), list(shapes)), "practice", {})


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "exporters"), str(ROOT / "devices")]
    from edgeplast.files import write_bytes

    write_bytes(ROOT / "devices/edgeplast_devices/doctor/practice.onnx", practice_graph())
