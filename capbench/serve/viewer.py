"""What the page shows of an answer: HTML that `web/viewer.js` moves through."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from capbench.model import Caption
from capbench.overlay import light

SIDE = 800
"""Pixels of the longest side of a picture that is shown."""
SHADE = 64
"""Pixels of a map's side: browsers stretch a few pixels into stripes."""


def answer(picture: Image.Image, captions: Mapping[str, Sequence[Caption]], attends: Mapping[str, bool]) -> str:
    """Each captioner's captions of a picture, side by side."""
    shown = picture.copy()
    shown.thumbnail((SIDE, SIDE))
    url = _url(shown, "jpeg")
    systems = "".join(_system(url, name, found, attends[name]) for name, found in captions.items())
    return f'<div class="systems">{systems}</div>'


def note(sentence: str, wrong: bool = False) -> str:
    """A sentence in place of captions."""
    return f'<p class="note{" wrong" if wrong else ""}" role="{"alert" if wrong else "status"}">{escape(sentence)}</p>'


def web(name: str) -> str:
    """A file of the page."""
    return files("capbench.serve").joinpath("web", name).read_text(encoding="utf-8")


def _system(url: str, name: str, captions: Sequence[Caption], attends: bool) -> str:
    rows = "".join(_row(place, caption) for place, caption in enumerate(captions))
    maps = _maps(url, captions) if attends else '<p class="help">This decoder does not say where it looks.</p>'
    return (
        f'<section class="system" aria-label="{escape(name)}"><h3>{escape(name)}</h3>'
        f'<p class="help">Captions, each with its log-probability</p><ol class="captions">{rows}</ol>{maps}</section>'
    )


def _maps(url: str, captions: Sequence[Caption]) -> str:
    return (
        '<p class="help">Where it looks: choose a word, or move the slider</p>'
        f'<div class="picture"><img src="{url}" alt="The picture"><img class="shade" alt="" hidden></div>'
        + "".join(_words(place, caption) for place, caption in enumerate(captions))
        + '<input type="range" min="0" value="0" aria-label="Word that the attention is shown for">'
    )


def _row(place: int, caption: Caption) -> str:
    chosen = "true" if place == 0 else "false"
    score = f"{caption.log_prob:.2f}".replace("-", "−")
    return (
        f'<li><button type="button" class="caption" aria-pressed="{chosen}">{escape(caption.text) or "(no word)"}'
        f'</button><span class="score" title="log-probability of all its words">{score}</span></li>'
    )


def _words(place: int, caption: Caption) -> str:
    assert caption.attention is not None
    buttons = "".join(
        f'<button type="button" class="word" data-shade="{_url(_shade(weights), "png")}">{escape(word)}</button>'
        for word, weights in zip(caption.text.split(), caption.attention, strict=True)
    )
    return f'<div class="words" role="group" aria-label="Words"{" hidden" if place else ""}>{buttons}</div>'


def _shade(weights: npt.NDArray[np.float32]) -> Image.Image:
    """Black that leaves the picture's light where the weights are largest; browsers stretch it over the picture."""
    small = Image.fromarray((255 * (1 - light(weights))).astype(np.uint8))
    alpha = small.resize((SHADE, SHADE), Image.Resampling.BICUBIC)
    shade = Image.new("RGBA", alpha.size)
    shade.putalpha(alpha)
    return shade


def _url(picture: Image.Image, form: str) -> str:
    buffer = BytesIO()
    picture.save(buffer, form, quality=85)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"
