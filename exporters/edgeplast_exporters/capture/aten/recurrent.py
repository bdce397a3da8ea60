"""Recurrent layers, unrolled: the sequence is read by one product, then each step is plain operators with gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgeplast_exporters.capture.aten.pieces import stack
from edgeplast_exporters.capture.aten.table import writes
from edgeplast_exporters.capture.tensors import Tensor, UnfitError

MOST_STEPS = 256
"""Of a layer: a step is a dozen nodes."""

_State = list[Tensor]
_Step = Callable[[Any, Tensor, Tensor, _State], _State]


@writes("lstm")
def lstm(s: Any, x: Tensor, start: Sequence[Any], parameters: Sequence[Tensor], *how: Any) -> tuple[Tensor, ...]:
    """Long short-term memory (Hochreiter & Schmidhuber, 1997): gates input, forget, candidate, output."""
    outputs, ends = _layers(s, _lstm_step, x, [s.emit.lift(t) for t in start], parameters, *how)
    return outputs, *(stack(s, [end[i] for end in ends]) for i in range(2))


@writes("gru")
def gru(s: Any, x: Tensor, start: Any, parameters: Sequence[Tensor], *how: Any) -> tuple[Tensor, ...]:
    """Gated recurrent unit (arXiv 1406.1078) in torch's form: gates reset, update, candidate."""
    outputs, ends = _layers(s, _gru_step, x, [s.emit.lift(start)], parameters, *how)
    return outputs, stack(s, [end[0] for end in ends])


@writes("rnn_tanh")
def rnn_tanh(s: Any, x: Tensor, start: Any, parameters: Sequence[Tensor], *how: Any) -> tuple[Tensor, ...]:
    """``h ← tanh(W·x + U·h)``."""
    outputs, ends = _layers(s, _plain_step("Tanh"), x, [s.emit.lift(start)], parameters, *how)
    return outputs, stack(s, [end[0] for end in ends])


@writes("rnn_relu")
def rnn_relu(s: Any, x: Tensor, start: Any, parameters: Sequence[Tensor], *how: Any) -> tuple[Tensor, ...]:
    """``h ← relu(W·x + U·h)``."""
    outputs, ends = _layers(s, _plain_step("Relu"), x, [s.emit.lift(start)], parameters, *how)
    return outputs, stack(s, [end[0] for end in ends])


def _layers(
    s: Any,
    step: _Step,
    x: Tensor,
    start: _State,
    parameters: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool = False,
) -> tuple[Tensor, list[_State]]:
    """Return the outputs of the last layer and the last states of all, as torch orders them."""
    del dropout, train
    if len(x.dims) != 3:
        raise UnfitError("a sequence without a batch dimension")
    directions = 2 if bidirectional else 1
    count = 4 if has_biases else 2
    if len(parameters) != layers * directions * count:
        raise UnfitError("projections of the state have no form")
    ends: list[_State] = []
    x = x if batch_first else x.permuted((1, 0, 2))
    for layer in range(layers):
        found = []
        for direction in range(directions):
            at = layer * directions + direction
            own = [parameters[count * at + i] if i < count else None for i in range(4)]
            first = [s.emit.select(t, 0, at) for t in start]
            found.append(_sequence(s, step, x, first, own, backwards=direction == 1))
            ends.append(found[-1][1])
        x = found[0][0] if directions == 1 else s.emit.concat([outputs for outputs, _ in found], 2)
    return x if batch_first else x.permuted((1, 0, 2)), ends


def _sequence(
    s: Any, step: _Step, x: Tensor, state: _State, own: Sequence[Tensor | None], *, backwards: bool
) -> tuple[Tensor, _State]:
    """Return the outputs (batch, steps, hidden) of one layer in one direction, and its last state."""
    e, steps = s.emit, x.sizes[1].count
    if steps > MOST_STEPS:
        raise UnfitError(f"a sequence of {steps} steps, of {MOST_STEPS} at most,")
    of_input, of_state, input_bias, state_bias = own
    read = e.linear(x, of_input, input_bias)
    slices = [t.with_dims((t.dims[0], t.dims[2])) for t in e.pieces(read, 1, [1] * steps)]
    outputs = []
    for here in reversed(slices) if backwards else slices:
        if state[0].array is not None and not state[0].array.any():  # the first one, of zeros
            kept = state_bias if state_bias is not None else e.lift(0.0)
        else:
            kept = e.linear(state[0], of_state, state_bias)
        state = step(e, here, kept, state)
        outputs.append(state[0])
    return stack(s, outputs[::-1] if backwards else outputs, 1), state


def _cut(e: Any, x: Tensor, parts: int) -> list[Tensor]:
    if not x.dims:  # a number for all
        return [x] * parts
    return [*e.pieces(x, len(x.dims) - 1, [x.sizes[-1].count // parts] * parts)]


def _lstm_step(e: Any, read: Tensor, kept: Tensor, state: _State) -> _State:
    enter, forget, candidate, out = _cut(e, e.add(read, kept), 4)
    cell = e.mul(e.unary("Sigmoid", enter), e.unary("Tanh", candidate))
    if state[1].array is None or state[1].array.any():
        cell = e.add(e.mul(e.unary("Sigmoid", forget), state[1]), cell)
    return [e.mul(e.unary("Sigmoid", out), e.unary("Tanh", cell)), cell]


def _gru_step(e: Any, read: Tensor, kept: Tensor, state: _State) -> _State:
    (x_reset, x_update, x_new), (h_reset, h_update, h_new) = _cut(e, read, 3), _cut(e, kept, 3)
    reset, update = (e.unary("Sigmoid", e.add(a, b)) for a, b in ((x_reset, h_reset), (x_update, h_update)))
    new = e.unary("Tanh", e.add(x_new, e.mul(reset, h_new)))
    return [e.add(new, e.mul(update, e.binary("Sub", state[0], new)))]


def _plain_step(curve: str) -> _Step:
    return lambda e, read, kept, state: [e.unary(curve, e.add(read, kept))]  # noqa: ARG005
