"""What the score graph of a bundle hands back, and what that says of each component: how scores are read off it.

The graph takes pictures in pairs and returns, for each value that enters or leaves a component, how far it moved from
one picture to the other. This record lies in the graph's own file, with the outline and the forward graph that a table
of scores carries to the planner.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Annotated, ClassVar

import msgspec

from edgeplast.documents import Count, Document
from edgeplast.errors import InputError
from edgeplast.outline import Outline
from edgeplast.recorded_graph import RecordedGraph

SCORE_GRAPH = "score.onnx"

Columns = tuple[Count, ...]


class UnitTaps(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a component starts and ends, as columns of what the graph hands back."""

    source: Columns
    sink: Columns


class ScoreTaps(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the columns of a score graph become scores.

    Attributes:
        taps: how many values are listened to; the graph hands back two numbers for each, (pairs, 2 · taps).
        methods: score method to component to its columns, in the order in which data flows.
        outline: of the model.
        graph: its forward graph, which the planner walks.
    """

    KIND: ClassVar[str] = "record of a score graph"
    MOST_BYTES: ClassVar[int] = 16 << 20

    taps: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    methods: dict[str, dict[str, UnitTaps]]
    outline: Outline
    graph: RecordedGraph

    def __post_init__(self) -> None:
        for units in self.methods.values():
            for name, unit in units.items():
                self.outline.component(name)
                if any(column >= self.taps for column in (*unit.source, *unit.sink)):
                    raise InputError(f"{name} is said to lie where the score graph hands nothing back.")

    def packed(self) -> str:
        """Return this record as a line of text, a tenth as long as its JSON."""
        return base64.b64encode(zlib.compress(msgspec.json.encode(self), 9)).decode()

    @classmethod
    def unpacked(cls, text: str, *, where: str) -> ScoreTaps:
        """Read what :meth:`packed` returned.

        Args:
            text: the line.
            where: names its source in messages.

        Raises:
            InputError: it is no such record, or larger than one can be.
        """
        unpacking = zlib.decompressobj()
        try:
            data = unpacking.decompress(base64.b64decode(text, validate=True), cls.MOST_BYTES + 1)
        except (binascii.Error, ValueError, zlib.error) as error:
            raise InputError(f"{where} does not say what it measures: {error}. Export the bundle again.") from error
        return cls.from_json(data, where=where)
