"""The table of operators: one record each, grouped by what they do."""

from __future__ import annotations

from edgeplast.errors import InputError
from edgeplast.graphs.operators import (
    activations,
    convolutions,
    layouts,
    lookups,
    norms,
    pointwise,
    products,
    reductions,
    shapes,
)
from edgeplast.graphs.operators.record import Call, Form, Operator, ShapeError

OPERATORS: dict[str, Operator] = {
    record.name: record
    for group in (products, pointwise, activations, norms, layouts, reductions, convolutions, lookups, shapes)
    for record in group.OPERATORS
}


def operator(name: str, component: str = "") -> Operator:
    """Return the record of an operator.

    Args:
        name: as in ``Node.op``.
        component: that asks, for the message.

    Raises:
        InputError: there is none.
    """
    found = OPERATORS.get(name)
    if found is None:
        where = f"{component}: " if component else ""
        raise InputError(f"{where}the operator {name} is not known here. Known: {', '.join(sorted(OPERATORS))}.")
    return found


def forms_of(call: Call, where: str) -> list[Form]:
    """Return the outputs of a call, by its operator's shape rule.

    Args:
        call: the node.
        where: it stands, for the message.

    Raises:
        InputError: the operator is not in the table.
        ShapeError: inputs and attributes do not go together.
    """
    rule = operator(call.op, where).forms
    try:
        return list(rule(call))
    except ShapeError as error:
        raise ShapeError(f"{where}: {call.op}: {error}") from error
