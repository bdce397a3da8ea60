"""The one door to onnxruntime: sessions over the bundle's graphs, fed from numpy arrays without copies.

Training graphs are written in operators that every onnxruntime has, with gradients as outputs, so the same code
runs on the training build (``onnxruntime-training-cpu``) and on the stock one. Parameters and gradients are numpy
arrays that the session reads and writes in place: the optimizer and the checkpoints need no copy of them.

Session settings, and why (onnxruntime 1.19 and 1.32):

* buffer reuse and memory patterns off: with them the runtime shares buffers between tensors ahead of time and
  prolongs their lives; without, a tensor is freed after its last reader, and the exporter's liveness walk is exact;
* priority order: nodes run in the order of the file, which is where recomputation and just-in-time weights stand;
* graph optimization off, but for deployed models: what runs is what was written and measured;
* prepacking off: packed copies of mapped weights would double them;
* hardly any spinning: threads that wait awake for the next node take the cores from the session whose turn it is (a
  prefix and what goes on from it), and from everybody else on the machine; those that sleep at once wake late;
* an arena shared by all sessions: a small first region for what stays (biases, norms), then one as large as the
  prediction: one region can be cut and joined freely, many small ones cannot, and between two runs the arena can
  give it back (it never gives back its first).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeplast.bundle import FROZEN
from edgeplast.contract import FEATURES, LOGITS, LOSS, TARGETS, gradient_input, gradient_output
from edgeplast.errors import BudgetError, InputError, MissingExtraError
from edgeplast.external_data import check_external_files
from edgeplast.footprint import FIRST_REGION_BYTES
from edgeplast.placement import ON_CPU, Placement
from edgeplast.quiet_runtime import import_quietly, without_training_package
from edgeplast.units import format_bytes
from edgeplast_devices.binding import StandingInputs, bind_data, bind_input, bind_output, data_input
from edgeplast_devices.memory import give_back_code
from edgeplast_devices.providers import CPU, installed_builds, names_of, session_providers
from edgeplast_devices.refusals import is_memory, why_not_loaded, why_stopped
from edgeplast_devices.spinning import spinning
from edgeplast_devices.stopping import Stop

LIBRARY = "onnxruntime"
"""A part of the path of the runtime's code."""

_ALIGNMENT = 256

PRACTICE_GRAPH = Path(__file__).parent / "doctor" / "practice.onnx"
"""A training graph of two layers, made by ``tests/devices/profiles/make_practice_graph.py``."""

_IDENTITY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
"""A serialised ONNX model: y = x, one float."""

_MOST_REGION_BYTES = (1 << 31) - (1 << 20)
"""The runtime keeps the size of a region in 32 bits; what needs more gets several."""

_arena_registered = False
_arena_most_bytes: int | None = None
_shrinker: Any = None


class OutOfMemoryError(BudgetError):
    """Memory could not be had; gradients of the running micro-batch may be half added.

    Attributes:
        reason: what the runtime said, one line.
    """

    def __init__(self, reason: str):
        self.reason = (reason.splitlines() or ["an allocation failed"])[0].rstrip(".")
        super().__init__(f"Memory ran out: {self.reason}. Allow more memory, or close other programs.")


def reason_of(error: OutOfMemoryError | MemoryError) -> str:
    """Say in a line what could not be had."""
    return error.reason if isinstance(error, OutOfMemoryError) else OutOfMemoryError(str(error)).reason


def import_onnxruntime() -> Any:
    """Import onnxruntime, or say how to install it.

    Raises:
        MissingExtraError: no build is installed, or the one that is does not load.
        InputError: two builds share the folder, of which only one can work.
    """
    builds = installed_builds()
    if len(builds) > 1:
        raise InputError(
            f"{' and '.join(builds)} are installed together; they unpack into the same folder and break each other. "
            f"Keep one: pip uninstall -y {' '.join(builds)} && pip install 'edgeplast[stock]' (or edgeplast[train])"
        )
    try:
        with without_training_package():
            return import_quietly()
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "onnxruntime is not installed; adapting, evaluating and predicting need it. Install one build: "
            "pip install 'edgeplast[stock]' (everywhere) or pip install 'edgeplast[train]' (x86-64, Python ≤ 3.12)"
        ) from error
    except ImportError as error:
        raise MissingExtraError(
            f"onnxruntime is installed and does not load ({error}). Install it again: "
            f"pip install --force-reinstall {builds[0] if builds else 'onnxruntime'}"
        ) from error


def runtime_name() -> str:
    """Return which build is installed and its version, e.g. ``"ort-training 1.19.2"`` or ``"stock 1.32.0"``."""
    ort = import_onnxruntime()
    import importlib.util

    training = importlib.util.find_spec("onnxruntime.training") is not None
    return f"{'ort-training' if training else 'stock'} {ort.__version__}"


def read_in(threads: int) -> None:
    """Run a small training graph, in a session that is thrown away; what only opening it took is given back.

    The runtime's code is read in as its kernels are first used: done before what is resident is measured, it is counted
    there and need not be guessed. The first session reads in what no later one needs.
    """
    for _ in range(2):
        session = open_session(PRACTICE_GRAPH, threads, ON_CPU, in_arena=False)
        give_back_code(LIBRARY)
        shapes = {i.name: [size if isinstance(size, int) else 1 for size in i.shape] for i in session.get_inputs()}
        session.run(None, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


def reserve_arena(region_bytes: int, most_bytes: int | None = None) -> None:
    """Set up the arena that all sessions of this process share; later calls have no effect.

    Args:
        region_bytes: what the runs need for what is alive at once.
        most_bytes: what the arena may ever hold; None leaves it open.

    Raises:
        BudgetError: an earlier call set up an arena that is too small for this one.
    """
    global _arena_registered, _arena_most_bytes
    if _arena_registered:
        if _arena_most_bytes is not None and region_bytes > _arena_most_bytes:
            raise BudgetError(
                f"This process set up the runtime's memory for an earlier run, with at most "
                f"{format_bytes(_arena_most_bytes)} for what is alive at once; this run needs "
                f"{format_bytes(region_bytes)}. Start it in a process of its own."
            )
        return
    ort = import_onnxruntime()
    memory = ort.OrtMemoryInfo(
        "Cpu",
        ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR,
        0,
        ort.OrtMemType.DEFAULT,
    )
    # Not a multiple of its alignment, the size would be refused when the region is made for the second time.
    region_bytes = min(-(-region_bytes // _ALIGNMENT) * _ALIGNMENT, _MOST_REGION_BYTES)
    settings = {
        "arena_extend_strategy": 0,
        "initial_chunk_size_bytes": FIRST_REGION_BYTES,
        "initial_growth_chunk_size_bytes": max(region_bytes, 1 << 20),
        # A chunk is cut to size unless less than this would be left over; the default is 128 MiB.
        "max_dead_bytes_per_chunk": 1 << 16,
    }
    if most_bytes is not None:
        settings["max_mem"] = most_bytes
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(settings))
    _arena_registered, _arena_most_bytes = True, most_bytes
    # Empty as it is: only once shrunk it grows by the size asked for, not by doubling (1.19.2: a region of 33 MB takes
    # 40 MB resident without, 35 with).
    release_arena()


def release_arena() -> None:
    """Let the arena give its large region back to the system, between two runs; the next run takes it anew.

    It takes a run of some graph (one Identity) with shrinkage switched on.
    """
    global _shrinker
    ort = import_onnxruntime()
    if _shrinker is None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.use_env_allocators", "1")
        _shrinker = ort.InferenceSession(_IDENTITY, options, providers=["CPUExecutionProvider"])
    how = ort.RunOptions()
    how.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    _shrinker.run(None, {"x": np.zeros(1, np.float32)}, how)


class TrainingSession:
    """Adds the gradients of micro-batches onto their accumulators.

    Args:
        graph: a training graph of a bundle.
        parameters: arrays for every parameter input, read at each call; float32, C-contiguous.
        gradients: accumulators by parameter name, written in place; float32, C-contiguous.
        threads: of the runtime.
        placement: where the graph runs.
    """

    def __init__(
        self,
        graph: Path,
        parameters: Mapping[str, np.ndarray],
        gradients: Mapping[str, np.ndarray],
        threads: int,
        placement: Placement = ON_CPU,
    ) -> None:
        self._session = open_session(graph, threads, placement)
        self._stop = Stop(import_onnxruntime().RunOptions())
        self._binding = self._session.io_binding()
        self._held = (parameters, gradients)  # the binding holds bare pointers into these
        wanted = {i.name for i in self._session.get_inputs()}
        self._data = data_input(wanted)
        inputs = {name: array for name, array in parameters.items() if name in wanted}
        inputs |= {gradient_input(name): array for name, array in gradients.items()}
        self._standing = StandingInputs(self._binding, inputs, placement)
        for name, array in gradients.items():
            bind_output(self._binding, gradient_output(name), array)
        self._loss = np.zeros((), np.float32)
        bind_output(self._binding, LOSS, self._loss)

    def accumulate(self, images: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        """Run one micro-batch forward and backward.

        Args:
            images: float32 (b, C, H, W), or latents (b, n, …) where the graph goes on from a prefix.
            targets: float32 (b, classes), weighted; see ``losses.CrossEntropy``.

        Returns:
            its contribution to the loss, and logits float32 (b, classes).

        Raises:
            OutOfMemoryError: the runtime could not get memory; zero the gradients and redo the whole batch.
        """
        logits = np.empty_like(targets)
        self._standing.refresh()
        bind_data(self._binding, self._data, images)
        bind_input(self._binding, TARGETS, targets)
        bind_output(self._binding, LOGITS, logits)
        run_bound(self._session, self._binding, self._stop)
        return float(self._loss), logits

    def stop(self, reason: str) -> None:
        """End the run in progress, from another thread; ``accumulate`` then raises OutOfMemoryError."""
        self._stop.ask(reason)


class EvaluationSession:
    """Computes logits with the current parameters.

    Args:
        graph: an evaluation graph of a bundle, or a deployed model.
        parameters: arrays for every parameter input, read at each call; float32, C-contiguous.
        threads: of the runtime.
        placement: where the graph runs.
        optimized: let the runtime rewrite the graph; for deployed models, whose integer products are only run as
            such after it, and which are faster with it. A bundle's graphs run as they were measured.
    """

    def __init__(
        self,
        graph: Path,
        parameters: Mapping[str, np.ndarray],
        threads: int,
        placement: Placement = ON_CPU,
        *,
        optimized: bool = False,
    ) -> None:
        self._session = open_session(graph, threads, placement, optimized=optimized)
        self._binding = self._session.io_binding()
        wanted = {i.name for i in self._session.get_inputs()}
        self._data = data_input(wanted)
        held = {name: array for name, array in parameters.items() if name in wanted}
        self._standing = StandingInputs(self._binding, held, placement)

    @property
    def classes(self) -> int:
        """Columns of the logits.

        Raises:
            InputError: the first output is no matrix with a fixed number of columns.
        """
        shape = self._session.get_outputs()[0].shape
        if len(shape) != 2 or not isinstance(shape[1], int):
            raise InputError(f"The model's first output has shape {shape}; logits are (images, classes).")
        return int(shape[1])

    @property
    def image_shape(self) -> list[int | str | None]:
        """Shape of the pictures that it takes, a name or None for a size that is open; empty where it takes none."""
        return next((list(i.shape) for i in self._session.get_inputs() if i.name == self._data), [])

    @property
    def metadata(self) -> dict[str, str]:
        """The model's own metadata; UnicodeDecodeError where they are no text."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return logits float32 (b, classes) of images float32 (b, C, H, W), or of latents (b, n, …).

        Raises:
            OutOfMemoryError: the runtime could not get memory.
        """
        return self._made(LOGITS, images, self.classes)

    @property
    def feature_width(self) -> int:
        """Columns of the features; 0 where the graph hands none back."""
        return next((int(o.shape[1]) for o in self._session.get_outputs() if o.name == FEATURES), 0)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return what the head multiplies, float32 (b, width); images and errors as in :meth:`logits`."""
        return self._made(FEATURES, images, self.feature_width)

    def _made(self, output: str, images: np.ndarray, columns: int) -> np.ndarray:
        result = np.empty((len(images), columns), np.float32)
        self._standing.refresh()
        bind_data(self._binding, self._data, images)
        self._binding.clear_binding_outputs()
        bind_output(self._binding, output, result)
        run_bound(self._session, self._binding)
        return result


def open_session(
    graph: Path, threads: int, placement: Placement, *, in_arena: bool = True, optimized: bool = False
) -> Any:
    """Open a graph with the settings above; see :class:`EvaluationSession`.

    Raises:
        OutOfMemoryError: the runtime could not get memory.
        InputError: the graph or its provider cannot be used.
    """
    # A deployed model holds all its weights; the runtime would follow the names in it to any file of the system.
    check_external_files(graph, () if optimized else (FROZEN,))
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_reuse = False
    options.enable_mem_pattern = False
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    options.log_severity_level = 4  # errors are raised, too; printed, names in a graph would reach the terminal
    options.add_session_config_entry("session.disable_prepacking", "1")
    for name, value in spinning(ort.__version__).items():
        options.add_session_config_entry(name, value)
    options.add_session_config_entry("session.load_model_format", "ONNX")  # what was looked through, whatever its name
    if in_arena:
        reserve_arena(0)
        options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        session = ort.InferenceSession(str(graph), options, providers=session_providers(placement), enable_fallback=0)
    except Exception as error:  # the runtime raises a dozen pybind types without a common base
        if is_memory(error):
            raise OutOfMemoryError(str(error)) from error
        raise InputError(why_not_loaded(ort.__version__, graph, str(error))) from error
    if placement.used != CPU and not set(names_of(placement.used)) <= set(session.get_providers()):
        raise InputError(
            f"onnxruntime {ort.__version__} lists {placement.used} and cannot start it here: its driver or a library "
            "is missing"
        )
    return session


def run_bound(session: Any, binding: Any, stop: Stop | None = None) -> None:
    """Run a session over what is bound to it.

    Args:
        session: of the runtime.
        binding: its inputs and outputs.
        stop: whether another thread wants the run to end; None where none can.

    Raises:
        OutOfMemoryError: the runtime could not get memory, or the run was ended.
        InputError: it stopped for another reason.
    """
    try:
        session.run_with_iobinding(binding, stop.how if stop else None)
    except Exception as error:
        if stop is not None and (reason := stop.taken()):
            raise OutOfMemoryError(reason) from error
        if is_memory(error):
            raise OutOfMemoryError(str(error)) from error
        raise InputError(why_stopped(str(error))) from error
