"""Rewrites of whole graphs, one a file; none changes its input."""
