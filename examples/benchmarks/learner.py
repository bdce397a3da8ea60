"""A Learner in one process: what a prediction costs beside the deployed file's, and how soon learning starts again.

    python examples/benchmarks/learner.py BUNDLE IMAGES [--memory 256MiB] [--json]

BUNDLE is a fresh bundle, IMAGES a labelled data set (its training pictures become examples). In one process:
predictions of a Learner and of the model that it deployed take turns on the same frame, so that a slow minute of the
machine hits both; medians, and the median of the ratios of neighbours. Then ``learn`` is called again and again: from
the call to the moment at which the first picture of its first micro-batch is asked for, by the clock and in time of the
processor, which other programs take nothing from. Last, predictions while another thread learns: how long they took,
and how long they waited for their turn, the longest beside the longest micro-batch of training. What they take beyond
that is their own: the picture is prepared while a micro-batch has the processors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import edgeplast
from edgeplast.units import format_bytes
from edgeplast_devices.images import ImageSet, open_images
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.predicting import Classifier
from edgeplast_devices.runtime import TrainingSession
from edgeplast_devices.sessions import Sessions
from edgeplast_devices.turns import Turns


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--memory", default="none", help="budget of the process")
    parser.add_argument("--rounds", type=int, default=100, help="predictions of each")
    parser.add_argument("--starts", type=int, default=6, help="times to learn again")
    parser.add_argument("--seconds", type=float, default=10.0, help="to predict while learning")
    parser.add_argument("--per-class", type=int, default=16, help="examples of each class")
    parser.add_argument("--threads", type=int, help="of the runtime")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measured(arguments)
    print(json.dumps(result) if arguments.json else "\n".join(f"{name:<34} {value}" for name, value in result.items()))


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return all figures by name."""
    batches = Batches()
    options = TrainingOptions(threads=arguments.threads)
    sessions = Sessions(training=batches.training)
    with (
        tempfile.TemporaryDirectory() as folder,
        edgeplast.Learner(
            arguments.bundle, into=Path(folder) / "adapted", memory=arguments.memory, options=options, sessions=sessions
        ) as learner,
    ):
        images = open_images(arguments.images, "train" if (arguments.images / "train").is_dir() else None)
        chosen = [np.flatnonzero(images.labels == label)[: arguments.per_class] for label in np.unique(images.labels)]
        learner.add(images.subset(np.concatenate(chosen)))
        frame = np.asarray(images.open(0))
        first = seconds_to_start(learner)
        again = [seconds_to_start(learner) for _ in range(arguments.starts)]
        model = learner.deploy(Path(folder) / "model.onnx")
        mine, deployed = side_by_side(learner, model, frame, arguments.rounds, arguments.threads)
        took, waited, longest = while_learning(learner, batches, frame, arguments.seconds)
        memory = learner.memory
        return {
            "predict_ms": round(1e3 * statistics.median(mine), 3),
            "deployed_ms": round(1e3 * statistics.median(deployed), 3),
            "ratio": round(statistics.median(a / b for a, b in zip(mine, deployed, strict=True)), 3),
            "first_start_ms": round(1e3 * first[0], 1),
            "second_start_ms": round(1e3 * statistics.median(clock for clock, _ in again), 1),
            "second_start_processor_ms": round(1e3 * statistics.median(spent for _, spent in again), 1),
            "predictions_while_learning": len(took),
            "while_learning_median_ms": round(1e3 * statistics.median(took), 1),
            "while_learning_p99_ms": round(1e3 * float(np.quantile(took, 0.99)), 1),
            "while_learning_longest_ms": round(1e3 * max(took), 1),
            "waited_longest_ms": round(1e3 * max(waited), 1),
            "micro_batch_longest_ms": round(1e3 * longest, 1),
            "waited_over_micro_batch": round(max(waited) / longest, 2),
            "peak": format_bytes(memory.measured_peak_bytes),
            "budget": "none" if memory.budget_bytes is None else format_bytes(memory.budget_bytes),
        }


class Batches:
    """Takes the time of micro-batches of training.

    Attributes:
        took: seconds in the graph, of each.
    """

    def __init__(self) -> None:
        self.took: list[float] = []

    def training(self, *given: Any) -> TrainingSession:
        """Open a session whose runs are timed."""
        owner = self

        class Timed(TrainingSession):
            def accumulate(self, images: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
                begin = time.perf_counter()
                result = super().accumulate(images, targets)
                owner.took.append(time.perf_counter() - begin)
                return result

        return Timed(*given)


def seconds_to_start(learner: edgeplast.Learner) -> tuple[float, float]:
    """Learn for two steps; return seconds from the call to the first picture, by the clock and of the processor."""
    asked: list[tuple[float, float]] = []
    opened = ImageSet.open

    def told(images: ImageSet, index: int, **how: Any) -> Any:
        asked.append((time.perf_counter(), time.process_time()))
        return opened(images, index, **how)

    begin = time.perf_counter(), time.process_time()
    with mock.patch.object(ImageSet, "open", told):
        learner.learn(steps=2)
    return asked[0][0] - begin[0], asked[0][1] - begin[1]


def side_by_side(
    learner: edgeplast.Learner, model: Path, frame: np.ndarray, rounds: int, threads: int | None
) -> tuple[list[float], list[float]]:
    """Return seconds of predictions, of the Learner and of the file it deployed, taking turns."""
    classifier = Classifier(model, threads=threads)
    picture = edgeplast.ImageSet.of([frame])
    mine, deployed = [], []
    for number in range(rounds + 5):
        begin = time.perf_counter()
        learner.predict(frame)
        middle = time.perf_counter()
        list(classifier.predict(picture))
        end = time.perf_counter()
        if number >= 5:  # warm
            mine.append(middle - begin)
            deployed.append(end - middle)
    return mine, deployed


def while_learning(
    learner: edgeplast.Learner, batches: Batches, frame: np.ndarray, seconds: float
) -> tuple[list[float], list[float], float]:
    """Predict while another thread learns; return the seconds of each, those it waited, and the longest micro-batch."""
    batches.took.clear()
    thread = threading.Thread(target=lambda: learner.learn(seconds=seconds))
    took: list[float] = []
    waited: list[float] = []
    enter = Turns.__enter__

    def timed(turns: Turns) -> None:
        begin = time.perf_counter()
        enter(turns)
        if threading.current_thread() is not thread:
            waited.append(time.perf_counter() - begin)

    with mock.patch.object(Turns, "__enter__", timed):
        thread.start()
        while thread.is_alive():
            begin = time.perf_counter()
            learner.predict(frame)
            took.append(time.perf_counter() - begin)
            time.sleep(0.01)
        thread.join()
    return took, waited, max(batches.took)


if __name__ == "__main__":
    main()
