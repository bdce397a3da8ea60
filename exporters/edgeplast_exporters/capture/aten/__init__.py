"""How each ATen operator is written: one small function each, by kind."""

from edgeplast_exporters.capture.aten import (
    convolutions,
    merging,
    norms,
    pieces,
    pointwise,
    products,
    recurrent,
    reductions,
    views,
)
from edgeplast_exporters.capture.aten.table import TABLE

__all__ = [
    "TABLE",
    "convolutions",
    "merging",
    "norms",
    "pieces",
    "pointwise",
    "products",
    "recurrent",
    "reductions",
    "views",
]
