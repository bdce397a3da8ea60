"""Recorded graphs that are damaged: refused with a reason."""

from __future__ import annotations

import msgspec
import pytest
from vit_graphs import small_vit_graph

from edgeplast.errors import InputError
from edgeplast.graphs.recording import recorded, restored


@pytest.mark.parametrize("content", [2**63, 2**65, -(10**400), float("inf"), "x", [1, 2]])
def test_a_constant_that_its_kind_cannot_hold_is_damage(content: object) -> None:
    record = recorded(small_vit_graph(depth=1)[1])
    whole = next(i for i in record.constants if record.values[i].dtype.startswith("int"))
    broken = msgspec.structs.replace(record, constants={**record.constants, whole: [content]})
    with pytest.raises(InputError, match=r"The recorded graph is damaged: .*Score the model again"):
        restored(broken)
