"""Names from files and archives, made fit for a terminal: nothing in them can move the cursor, colour or hide text."""

from __future__ import annotations


def printable(text: str, *, keep: str = "") -> str:
    r"""Return text in which every character that does not print stands as an escape: ``a\x1b[2Jb``.

    File names, class names and the words of damaged files are data of strangers. Left as they are, they could clear
    a screen, forge lines, set a window's title, or (bidirectional marks) show a name in another order than it has.

    Args:
        text: anything; bytes of a file name that are no UTF-8 (surrogates) are shown as ``\udc80``.
        keep: characters that stay although they do not print, such as ``"\n"`` in a text of several lines.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)
