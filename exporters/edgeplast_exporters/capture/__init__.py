"""Capturing any vision model: a traced module becomes a graph, its weights and its outline."""

from edgeplast_exporters.capture.capturing import Captured, capture, wired

__all__ = ["Captured", "capture", "wired"]
