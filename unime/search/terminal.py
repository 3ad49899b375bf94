"""Small pictures of what was found, in terminals that say that they can show them."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from typing import TextIO

from unime.config import InputConfig
from unime.errors import DataError
from unime.inputs.images import load_image
from unime.search.outcome import Hit
from unime.search.pdf import page_as_png

SIDE = 160  # pixels
PIECE = 4096  # characters of kitty's graphics protocol at a time
INLINE = ("iTerm.app", "WezTerm")  # values of TERM_PROGRAM


def shows_pictures(out: TextIO, environment: Mapping[str, str] = os.environ) -> str:
    """The protocol of the terminal that `out` is, "kitty" or "iterm2"; "" of any other and of what
    is no terminal."""
    term = environment.get("TERM", "")
    if not out.isatty() or term.startswith(("screen", "tmux")):  # which pass nothing on
        return ""
    if "kitty" in term or "ghostty" in term:
        return "kitty"
    return "iterm2" if environment.get("TERM_PROGRAM") in INLINE else ""


def picture_codes(hit: Hit, protocol: str) -> str:
    """What shows a hit's picture or page; "" of a text, and of what cannot be read any more."""
    content = thumbnail(hit.path, hit.kind, hit.place, SIDE)
    if content is None:
        return ""
    code = base64.b64encode(content).decode()
    if protocol == "iterm2":
        return f"\033]1337;File=inline=1;size={len(content)}:{code}\a"
    pieces = [code[n : n + PIECE] for n in range(0, len(code), PIECE)]
    last = len(pieces) - 1
    return "".join(
        f"\033_G{'a=T,f=100,' if n == 0 else ''}m={int(n < last)};{piece}\033\\"
        for n, piece in enumerate(pieces)
    )


def thumbnail(path: str, kind: str, place: int, side: int) -> bytes | None:
    """A picture or page in small, as PNG; None: it is a text, or cannot be read any more."""
    try:
        if kind == "picture":
            picture = load_image(path, InputConfig().max_image_pixels)
        elif kind == "page":
            drawn = page_as_png(path, place, side)
            picture = load_image(path, InputConfig().max_image_pixels, content=drawn)
        else:
            return None
    except DataError:
        return None
    picture.thumbnail((side, side))
    held = io.BytesIO()
    picture.save(held, "PNG")
    return held.getvalue()
