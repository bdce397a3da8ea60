"""What onnxruntime's kernels allocate beside their outputs, next to what the table of operators says.

    python examples/benchmarks/conv_workspace.py [--python other/bin/python …] [--threads 2] [--json]

Each operator runs alone, as the device's sessions run it (graph optimization, prepacking, buffer reuse and memory
patterns off), but without the arena, so that every allocation is a mapping of its own. Before the run a gigabyte of
addresses is reserved, so that the process has never been as large; by how much ``VmPeak`` then rises above
``VmSize`` is what the kernel asked for, to the page. It is asked for in full whether it is touched or not, and an arena
hands it out in full. Linux only. ``--python`` adds interpreters with other builds of onnxruntime; the models are
written once, by this one.

The rule (``edgeplast/graphs/operators/convolutions.py``) is read off ``MlasConvPrepare`` in onnxruntime's
``core/mlas/lib/convolve.cpp`` and off ``conv_transpose.cc``. With filters F = O/groups, inner size K = C/groups·kernel
area and P positions:

* ``Conv`` 1×1, stride 1, no padding: nothing. F > P: all patches of one picture, 4·K·P bytes. Else 128·128 floats a
  thread (1.19.2 takes fewer threads for little work). Nothing grows with the batch.
* ``ConvTranspose``: the patches of one picture and group, 4·O/groups·kernel area·P of its input.
* ``Softmax`` along any dimension but the last: transposed copies of input and output.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS = {"MALLOC_MMAP_THRESHOLD_": "32768", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}
"""glibc then maps every allocation of 32 KiB and more by itself."""

PAGE = 4096
IMAGES = 4

Case = tuple[str, str, tuple[tuple[int, ...], ...], dict[str, Any]]


def conv(c: int, o: int, size: int, k: int, s: int = 1, *, groups: int = 1, dilation: int = 1, pad: int = -1) -> Case:
    """A convolution of c to o channels on size² pictures."""
    pads = [k // 2 * dilation if pad < 0 else pad] * 4
    how = {"kernel_shape": [k, k], "strides": [s, s], "pads": pads, "dilations": [dilation] * 2, "group": groups}
    name = f"Conv {k}×{k} {c}→{o} {size}² stride {s} groups {groups}" + (
        f" dilation {dilation}" if dilation > 1 else ""
    )
    return name, "Conv", ((IMAGES, c, size, size), (o, c // groups, k, k)), how


def transposed(c: int, o: int, size: int, k: int, s: int = 1, *, groups: int = 1) -> Case:
    """A transposed convolution of c to o channels on size² pictures."""
    how = {"kernel_shape": [k, k], "strides": [s, s], "pads": [k // 2] * 4, "group": groups}
    how |= {"output_padding": [s - 1, s - 1]}
    name = f"ConvTranspose {k}×{k} {c}→{o} {size}² stride {s} groups {groups}"
    return name, "ConvTranspose", ((IMAGES, c, size, size), (c, o // groups, k, k)), how


CASES: list[Case] = [
    conv(3, 64, 224, 7, 2),
    conv(3, 96, 224, 4, 4, pad=0),
    conv(3, 192, 224, 16, 16, pad=0),
    conv(64, 64, 56, 3),
    conv(64, 64, 28, 3, dilation=2),
    conv(256, 512, 14, 3, 2),
    conv(512, 512, 7, 3),
    conv(96, 192, 28, 1),
    conv(96, 192, 28, 1, 2),
    conv(512, 1024, 14, 1, 2),
    conv(128, 128, 28, 3, groups=4),
    conv(96, 96, 28, 3, groups=96),
    conv(96, 96, 56, 3, 2, groups=96),
    conv(80, 80, 28, 7, groups=80),
    conv(672, 672, 14, 5, groups=672),
    conv(960, 960, 7, 3, groups=960),
    transposed(64, 64, 56, 3),
    transposed(128, 64, 28, 3, 2),
    transposed(512, 256, 7, 3, 2),
    transposed(192, 96, 28, 1, 2),
    transposed(96, 96, 56, 3, 2, groups=96),
    ("Softmax over channels", "Softmax", ((IMAGES, 64, 56, 56),), {"axis": 1}),
    ("Softmax over the last", "Softmax", ((IMAGES, 64, 56, 56),), {"axis": 3}),
    ("MaxPool 3×3", "MaxPool", ((IMAGES, 64, 56, 56),), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
    ("AveragePool 3×3", "AveragePool", ((IMAGES, 64, 56, 56),), {"kernel_shape": [3, 3], "strides": [2, 2]}),
    ("BatchNormalization", "BatchNormalization", ((IMAGES, 64, 56, 56), *((64,),) * 4), {"epsilon": 1e-5}),
    ("ReduceMean over positions", "ReduceMean", ((IMAGES, 64, 56, 56),), {"axes": [2, 3], "keepdims": 0}),
    ("HardSigmoid", "HardSigmoid", ((IMAGES, 64, 56, 56),), {"alpha": 1 / 6, "beta": 0.5}),
    ("Transpose", "Transpose", ((IMAGES, 64, 56, 56),), {"perm": [0, 2, 3, 1]}),
]


def write_models(folder: Path, threads: int) -> list[dict[str, Any]]:
    """Write one graph a case; return what each is called, reads, and should allocate."""
    from edgeplast.graphs.graph import Graph
    from edgeplast.graphs.measures.liveness import steps
    from edgeplast.graphs.operators.convolutions import THREADS
    from edgeplast_exporters.onnx_writer import to_onnx

    cases = []
    for i, (name, op, shapes, how) in enumerate(CASES):
        g = Graph()
        first = g.input("x0", (1, *shapes[0][1:]), batched=True)
        inputs = [first, *(g.input(f"x{j}", shape) for j, shape in enumerate(shapes[1:], 1))]
        out = g.output(g.node(op, inputs, **how)[0])
        (folder / f"{i}.onnx").write_bytes(to_onnx(g, "one", {}))
        made = [v for v in steps(g)[0][0] if v.name != out.name]
        said = sum(v.bytes * (IMAGES if v.batched else 1) for v in made)
        if op == "Conv" and said == THREADS * (1 << 16):
            said = threads * (1 << 16)
        cases.append({"name": name, "shapes": shapes, "output": (IMAGES * out.shape[0], *out.shape[1:]), "rule": said})
    return cases


def measure(folder: Path, threads: int) -> None:
    """Print, for each model of a folder, by how many bytes the address space rose, as JSON."""
    from edgeplast.quiet_runtime import import_quietly

    ort = import_quietly()
    kept = []
    found = []
    for i, case in enumerate(json.loads((folder / "cases.json").read_text())):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_cpu_mem_arena = options.enable_mem_reuse = options.enable_mem_pattern = False
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.log_severity_level = 3
        session = ort.InferenceSession(str(folder / f"{i}.onnx"), options, providers=["CPUExecutionProvider"])
        arrays = [np.ones(shape, np.float32) for shape in case["shapes"]]
        output = np.zeros(case["output"], np.float32)
        binding = session.io_binding()
        for j, array in enumerate(arrays):
            binding.bind_input(f"x{j}", "cpu", 0, np.float32, array.shape, array.ctypes.data)
        name = session.get_outputs()[0].name
        binding.bind_output(name, "cpu", 0, np.float32, output.shape, output.ctypes.data)
        kept.append(mmap.mmap(-1, 1 << 30, prot=mmap.PROT_READ))
        before = _status("VmSize")
        session.run_with_iobinding(binding)
        rise = _status("VmPeak") - before
        found.append(max(rise - PAGE, 0))  # the allocator's own header takes a page
    print(json.dumps({"runtime": ort.__version__, "bytes": found}))


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))


def main() -> None:
    """Measure every case with every interpreter and print a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", action="append", default=[], help="another interpreter, with its own onnxruntime")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        measure(options.measure, options.threads)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = write_models(folder, options.threads)
        (folder / "cases.json").write_text(json.dumps(cases))
        builds = {}
        for python in (sys.executable, *options.python):
            command = [python, __file__, "--measure", name, "--threads", str(options.threads)]
            done = subprocess.run(command, env=os.environ | SETTINGS, capture_output=True, text=True, check=True)
            result = json.loads(done.stdout)
            builds[result["runtime"]] = result["bytes"]
    rows = [
        {"case": case["name"], "rule": case["rule"]} | {build: taken[i] for build, taken in builds.items()}
        for i, case in enumerate(cases)
    ]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'KiB beside the output':48}{'rule':>8}" + "".join(f"{build:>10}" for build in builds))
    for row in rows:
        print(f"{row['case']:48}{row['rule'] / 1024:8.0f}" + "".join(f"{row[b] / 1024:10.0f}" for b in builds))


if __name__ == "__main__":
    main()
