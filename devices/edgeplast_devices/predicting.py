"""The verb ``predict``: a deployed ONNX file or a bundle and pictures in, class probabilities out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from edgeplast.bundle import EVALUATION_GRAPH, FROZEN, Bundle, check_classes, check_temperature
from edgeplast.errors import EdgeplastError, InputError
from edgeplast.external_data import check_external_files
from edgeplast.placement import Placement
from edgeplast.prefixes import PREFIX_GRAPH
from edgeplast.preprocessing import Preprocessing
from edgeplast.progress import Progress, silent
from edgeplast.stamps import Stamp, kind_at, shortened, stamp_of
from edgeplast.unknown import Unknown
from edgeplast_devices.deploying import CLASSES_KEY, PREPROCESSING_KEY, TEMPERATURE_KEY, UNKNOWN_KEY
from edgeplast_devices.energy import is_known
from edgeplast_devices.images import ImageSet, Unreadable, batches
from edgeplast_devices.latents import PrefixSession
from edgeplast_devices.memory import usable_threads
from edgeplast_devices.placing import place
from edgeplast_devices.providers import CPU
from edgeplast_devices.runtime import EvaluationSession
from edgeplast_devices.sessions import Evaluates, OverPictures
from edgeplast_devices.weights import read_trainable

if TYPE_CHECKING:
    from edgeplast.trust.trusting import Trusted

PREDICTING = "predicting"
"""What is told of each picture."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one picture; ``label, confidence = prediction`` takes it apart.

    Attributes:
        name: of the picture.
        probabilities: by class name, most likely first.
        known: whether the model knows what it shows, by the energy of its logits; False: none of the classes, it seems.
            None where nothing tells, as the model was fitted without held-out pictures.
    """

    name: str
    probabilities: dict[str, float]
    known: bool | None = None

    @property
    def label(self) -> str:
        """The most likely class."""
        return next(iter(self.probabilities))

    @property
    def confidence(self) -> float:
        """Its probability."""
        return next(iter(self.probabilities.values()))

    def __iter__(self) -> Iterator[str | float]:
        return iter((self.label, self.confidence))


def prediction(name: str, logits: np.ndarray, classes: tuple[str, ...], known: bool | None = None) -> Prediction:
    """Return what logits (classes,) say of a picture, and whether it is known.

    Raises:
        InputError: one is no finite number.
    """
    logits = logits.astype(np.float64)
    if not np.isfinite(logits).all():
        raise InputError("The model's outputs are no finite numbers. Take one from a run that did not diverge.")
    p = np.exp(logits - logits.max())
    p /= p.sum()
    return Prediction(name, {classes[i]: float(p[i]) for i in np.argsort(-p, kind="stable")}, known)


class Classifier:
    """A deployed model or a bundle, opened once for any number of pictures.

    Args:
        model: the ONNX file that ``deploy`` wrote, a bundle's folder, or an opened bundle.
        threads: of the runtime; by default all cores this process may use.
        runtime: the build of onnxruntime; see ``placing.place``.
        provider: the execution provider.
        trusted: public keys, a file or a folder of them, of which one must have signed the model; by default no
            signature is asked for. An opened bundle is taken as it is.

    Attributes:
        session: the opened model.
        placement: where it runs.
        classes: names of its outputs.
        preprocessing: how a picture becomes its input.
        temperature: that its logits are divided by; None for none.
        unknown: when it says that it does not know; None where nothing tells.

    Raises:
        UntrustedError: no trusted key signed it, or it was changed since; no parser has seen it.
        InputError: the model is missing, no ONNX file, reads weights from other files, or has no class names and
            preprocessing in its metadata.
        MissingExtraError: the runtime is not installed.
        UsageError: there is no such runtime or provider.
    """

    def __init__(
        self,
        model: Path | Bundle,
        *,
        threads: int | None = None,
        runtime: str = "auto",
        provider: str = CPU,
        trusted: Trusted = None,
    ) -> None:
        threads = threads or usable_threads()
        if isinstance(model, Path) and kind_at(model) == "folder":
            model = Bundle.open(model, trusted=trusted)
        if isinstance(model, Bundle):
            self.placement = place(runtime, provider, trial=model.path / EVALUATION_GRAPH)
            self.session: Evaluates = session_over(model, threads, self.placement)
            self.classes, self.preprocessing = model.manifest.classes, model.manifest.preprocessing
            self.temperature, self._divides = model.manifest.temperature, False
            self.unknown = model.manifest.unknown
        else:
            self._open_file(model, threads, runtime, provider, trusted)

    def _open_file(self, model: Path, threads: int, runtime: str, provider: str, trusted: Trusted) -> None:
        if kind_at(model) != "file":
            raise InputError(
                f"There is no model {shortened(model)}. Make one with: edgeplast deploy adapted/ -o model.onnx"
            )
        file = Path(os.path.realpath(model))  # where a link leads
        stamp = stamp_of(file) if trusted is None else _trusted_stamp(model, file, trusted)
        check_external_files(file)
        self.placement = place(runtime, provider, trial=file)
        session = EvaluationSession(file, {}, threads, self.placement, optimized=True)
        self.session = session
        if stamp_of(file) != stamp:
            raise InputError(f"{model} changed while it was opened. Wait until it is written, and try again.")
        try:
            metadata = session.metadata
            self.classes = msgspec.json.decode(metadata[CLASSES_KEY], type=tuple[str, ...])
            self.preprocessing = msgspec.json.decode(metadata[PREPROCESSING_KEY], type=Preprocessing)
            self._divides = True  # by the temperature, in the graph
            self.temperature = msgspec.json.decode(metadata.get(TEMPERATURE_KEY, "null"), type=float | None)
            self.unknown = msgspec.json.decode(metadata.get(UNKNOWN_KEY, "null"), type=Unknown | None)
            check_classes(self.classes)
            check_temperature(self.temperature)
        except KeyError as error:
            raise InputError(
                f"{model} has no {error} in its metadata, so nothing says what its outputs mean. "
                "Predict with a model made by: edgeplast deploy"
            ) from error
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, EdgeplastError) as error:
            reason = str(error).rstrip(".")
            raise InputError(f"The metadata of {model} make no sense: {reason}. Deploy it again.") from error
        if len(self.classes) != session.classes:
            raise InputError(
                f"{model} names {len(self.classes)} classes and has {session.classes} outputs. Deploy it again."
            )
        expected = [self.preprocessing.channels, *self.preprocessing.image_size]
        if session.image_shape[1:] != expected:
            raise InputError(
                f"{model} takes pictures of shape {session.image_shape[1:]}, and its preprocessing makes them "
                f"{expected}. Deploy it again."
            )

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return logits float32 (b, classes) as they are before the temperature, of images float32 (b, 3, H, W)."""
        return self._both(images)[0]

    def _both(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return them as they are before the temperature and divided by it, where there is one."""
        found = self.session.logits(images)
        if not self.temperature:
            return found, found
        by = np.float32(self.temperature)
        return (found * by, found) if self._divides else (found, found / by)

    def predict(
        self,
        images: ImageSet,
        *,
        temperature: bool = True,
        unreadable: Unreadable | None = None,
        progress: Progress = silent,
    ) -> Iterator[Prediction]:
        """Classify pictures one by one.

        Args:
            images: pictures; labels are not looked at.
            temperature: whether probabilities are those at the model's temperature, where it has one.
            unreadable: takes note of pictures that cannot be read.
            progress: told of each picture.

        Raises:
            InputError: not one of the pictures can be read, or what the model says of one is no finite number.
        """
        for batch in batches(images, self.preprocessing, 1, unreadable=unreadable or Unreadable()):
            plain, tempered = (each[0] for each in self._both(batch.images))
            logits, known = tempered if temperature else plain, is_known(plain, self.unknown)
            index = int(batch.indices[0])
            found = prediction(images.name(index), logits, self.classes, known)
            progress(PREDICTING, index + 1, len(images))
            yield found


def _trusted_stamp(model: Path, file: Path, trusted: Trusted) -> Stamp:
    """Return the stamp of a deployed file whose content a trusted key signed.

    Args:
        model: as it was named; its signatures lie beside that name.
        file: where a link of that name leads.
        trusted: public keys.
    """
    from edgeplast.trust.trusting import trusted_keys

    keys = trusted_keys(trusted)
    assert keys is not None
    return keys.check_model(model, file)[1]


def session_over(bundle: Bundle, threads: int, placement: Placement) -> Evaluates:
    """Open what computes logits of pictures with a bundle's weights as they are.

    Raises:
        DamagedError: files of the bundle changed since they were verified.
    """
    bundle.check_unchanged(EVALUATION_GRAPH, FROZEN)
    session = EvaluationSession(bundle.path / EVALUATION_GRAPH, read_trainable(bundle), threads, placement)
    bundle.check_unchanged(EVALUATION_GRAPH, FROZEN)
    if bundle.manifest.prefix is None:
        return session
    bundle.check_unchanged(PREFIX_GRAPH)
    prefix = PrefixSession(bundle.path / PREFIX_GRAPH, bundle.manifest.prefix, threads, placement)
    bundle.check_unchanged(PREFIX_GRAPH, FROZEN)
    return OverPictures(prefix, session)
