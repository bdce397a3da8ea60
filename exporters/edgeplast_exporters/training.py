"""Training graphs, under the name by which the exporter's rooms ask for them."""

from edgeplast.graphs.training import promote as promote
from edgeplast.graphs.training import training_graph as training_graph
