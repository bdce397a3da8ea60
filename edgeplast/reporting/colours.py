"""The colours that all reports share, whatever draws them."""

ACCENT, INK, QUIET, GRID, WARNING = "#1f5fa8", "#222222", "#777777", "#e6e6e6", "#b5651d"

SHADES = ("#f4f8fc", "#9dc1e4", ACCENT, "#0b2c54")
"""From nothing to all, evenly spaced."""


AGREE = (WARNING, "#ffffff", ACCENT)
"""From -1 to 1, evenly spaced."""


def shade(share: float, colours: tuple[str, ...] = SHADES) -> str:
    """Return the colour of a share, 0 to 1."""
    at = min(max(share, 0.0), 1.0) * (len(colours) - 1)
    lower = min(int(at), len(colours) - 2)
    ends = [[int(colours[lower + k][i : i + 2], 16) for i in (1, 3, 5)] for k in (0, 1)]
    mixed = [round(a + (b - a) * (at - lower)) for a, b in zip(*ends, strict=True)]
    return "#" + "".join(f"{value:02x}" for value in mixed)
