"""AdamW and SGD with momentum, in place on numpy arrays, and the global gradient norm.

The state of a parameter lies under ``<slot>/<parameter>``.

Written over numpy rather than as a graph because it is the same on every runtime, its state is plainly in hand
for checkpoints, and it works in pieces that stay in the processor's cache: no temporary is larger than
``_PIECE`` floats, so an update needs no memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from edgeplast.optimizers import OPTIMIZERS, optimizer_facts

_ALIKE: Mapping[str, float] = {}
_PIECE = 1 << 15
"""Floats worked on at a time: 128 KiB an array, so that five of them stay in a level-2 cache."""


def gradient_norm(gradients: Mapping[str, np.ndarray]) -> float:
    """Return the Euclidean norm over all gradients together; infinite where a square is beyond float32."""
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for array in gradients.values():
            for piece in _pieces(array):
                total += float(np.dot(piece, piece))
    return math.sqrt(total)


class AdamW:
    """Loshchilov & Hutter, arXiv 1711.05101, with torch's defaults.

    Args:
        parameters: float32 arrays, changed in place.
        weight_decay: applied to arrays of two and more dimensions; biases, norms and tokens are spared.
        betas: decay of the two moments.
        epsilon: added to the root of the second moment.

    Attributes:
        updates: by parameter, how often it was changed; the bias corrections depend on it.
        state: by ``<slot>/<parameter>``, the moments; float32.
    """

    name = "adamw"
    slots = OPTIMIZERS[name].slots

    def __init__(
        self,
        parameters: Mapping[str, np.ndarray],
        *,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        self.parameters = dict(parameters)
        self.weight_decay, self.betas, self.epsilon = weight_decay, betas, epsilon
        self.updates = dict.fromkeys(parameters, 0)
        self.state = {
            f"{slot}/{name}": np.zeros_like(array) for name, array in parameters.items() for slot in self.slots
        }

    def update(
        self,
        gradients: Mapping[str, np.ndarray],
        learning_rate: float,
        scale: float = 1.0,
        rate_factors: Mapping[str, float] = _ALIKE,
    ) -> None:
        """Apply one step with ``scale · gradient`` (the factor of clipping).

        Args:
            gradients: by parameter, of its shape; float32.
            learning_rate: of this step.
            scale: of all gradients.
            rate_factors: by parameter, what its learning rate is multiplied with; 1 where it is not named.
        """
        beta1, beta2 = self.betas
        for name, gradient in gradients.items():
            self.updates[name] += 1
            rate = learning_rate * rate_factors.get(name, 1.0)
            size = rate / (1 - beta1 ** self.updates[name])
            correction = (1 - beta2 ** self.updates[name]) ** -0.5
            parameter = self.parameters[name]
            decay = 1 - rate * (self.weight_decay if parameter.ndim >= 2 else 0.0)
            for p, g, mean, square in zip(
                _pieces(parameter),
                _pieces(gradient),
                _pieces(self.state[f"mean/{name}"]),
                _pieces(self.state[f"square/{name}"]),
                strict=True,
            ):
                scaled = g * np.float32(scale)
                mean += np.float32(1 - beta1) * (scaled - mean)
                square *= np.float32(beta2)
                np.multiply(scaled, scaled, out=scaled)
                square += np.float32(1 - beta2) * scaled
                root = np.sqrt(square)
                root *= np.float32(correction)
                root += np.float32(self.epsilon)
                np.divide(mean, root, out=root)
                p *= np.float32(decay)
                p -= np.float32(size) * root


class SGD:
    """Stochastic gradient descent with momentum, as torch computes it.

    Args:
        parameters: float32 arrays, changed in place.
        weight_decay: added to the gradient of arrays of two and more dimensions.
        momentum: share of the previous direction that is kept.
    """

    name = "sgd"
    slots = OPTIMIZERS[name].slots

    def __init__(
        self, parameters: Mapping[str, np.ndarray], *, weight_decay: float = 0.0, momentum: float = 0.9
    ) -> None:
        self.parameters = dict(parameters)
        self.weight_decay, self.momentum = weight_decay, momentum
        self.updates = dict.fromkeys(parameters, 0)
        self.state = {f"momentum/{name}": np.zeros_like(array) for name, array in parameters.items()}

    def update(
        self,
        gradients: Mapping[str, np.ndarray],
        learning_rate: float,
        scale: float = 1.0,
        rate_factors: Mapping[str, float] = _ALIKE,
    ) -> None:
        """Apply one step; arguments as of :meth:`AdamW.update`."""
        for name, gradient in gradients.items():
            self.updates[name] += 1
            parameter = self.parameters[name]
            rate = np.float32(learning_rate * rate_factors.get(name, 1.0))
            decay = np.float32(self.weight_decay if parameter.ndim >= 2 else 0.0)
            for p, g, velocity in zip(
                _pieces(parameter), _pieces(gradient), _pieces(self.state[f"momentum/{name}"]), strict=True
            ):
                velocity *= np.float32(self.momentum)
                velocity += g * np.float32(scale)
                if decay:
                    velocity += decay * p
                p -= rate * velocity


_CLASSES: dict[str, Callable[[Mapping[str, np.ndarray], float, float], AdamW | SGD]] = {
    "adamw": lambda parameters, weight_decay, momentum: AdamW(parameters, weight_decay=weight_decay),  # noqa: ARG005
    "sgd": lambda parameters, weight_decay, momentum: SGD(parameters, weight_decay=weight_decay, momentum=momentum),
}


def make_optimizer(
    name: str, parameters: Mapping[str, np.ndarray], *, weight_decay: float | None = None, momentum: float = 0.9
) -> AdamW | SGD:
    """Return an optimizer by name; its defaults are those of its record in ``edgeplast.optimizers``.

    Raises:
        UsageError: there is no such optimizer.
    """
    facts = optimizer_facts(name)
    return _CLASSES[name](parameters, facts.weight_decay if weight_decay is None else weight_decay, momentum)


def forget(optimizer: AdamW | SGD, parameter: str) -> None:
    """Free the state of a parameter that no longer trains."""
    del optimizer.updates[parameter], optimizer.parameters[parameter]
    for slot in optimizer.slots:
        del optimizer.state[f"{slot}/{parameter}"]


def admit(optimizer: AdamW | SGD, name: str, parameter: np.ndarray) -> None:
    """Begin the state of a parameter that trains from now on; its bias correction starts anew with it."""
    optimizer.parameters[name], optimizer.updates[name] = parameter, 0
    for slot in optimizer.slots:
        optimizer.state[f"{slot}/{name}"] = np.zeros_like(parameter)


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    flat = array.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        yield flat[start : start + _PIECE]
