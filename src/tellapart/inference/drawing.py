"""Answers as pictures: the most probable classes beside the picture, and where they come from.

Pillow alone, so that it works wherever predicting does.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tellapart.data.pixels import Pixels
from tellapart.evaluation.report import percent
from tellapart.inference.lettering import width_px, write

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    Box = tuple[float, float, float, float]

PAPER, INK, SOFT, LINE = "#ffffff", "#1b2330", "#566070", "#dfe1e4"
BAR, BAR_SOFT = "#2158c9", "#a9bfe8"
# What speaks for a class and against it; told apart by lightness as well as by hue.
FOR, AGAINST = (208, 60, 0), (40, 96, 214)
STRONGEST = 0.8
MARGIN_PX = 36
PICTURE_PX = 640
# A picture is enlarged to this at most; what is smaller would be a stamp on the card.
ENLARGED_PX = 448


def answer_png(
    picture: Pixels, name: str, top: Sequence[tuple[str, float]], note: str | None = None
) -> bytes:
    """Draw a picture and the bars of its most probable classes, the surest first, as PNG.

    picture: (H, W, 3). name: what stands below it. top: (class, probability) pairs.
    note: a sentence below the name, such as why the answer is unsure.
    """
    image = _fitted(picture)
    bars_px = 52 * len(top)
    width = PICTURE_PX + 2 * MARGIN_PX
    below = MARGIN_PX + image.height + 30
    height = below + 26 * (2 if note else 1) + 16 + bars_px + MARGIN_PX - 16
    card, draw = _card(width, height)
    card.paste(image, ((width - image.width) // 2, MARGIN_PX))
    write(draw, (MARGIN_PX, below), name, 20, SOFT, PICTURE_PX)
    if note:
        write(draw, (MARGIN_PX, below + 26), note, 20, INK, PICTURE_PX)
    _bars(draw, height - MARGIN_PX + 16 - bars_px, top)
    return _png(card)


def explanation_png(
    picture: Pixels, box: Box, heat: NDArray[np.float32], name: str, answer: str
) -> bytes:
    """Draw a picture beside itself with the map over it, and a bar that explains its colours.

    picture: (H, W, 3). box: what the network saw of it. heat: (H', W') of one class.
    name: the picture's. answer: class and confidence in words.
    """
    plain, size = _fitted(picture), picture.shape[:2]
    scale = plain.width / size[1], plain.height / size[0]
    seen = (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])
    over = _image(overlay(np.asarray(plain), seen, heat))
    width = 2 * plain.width + 20 + 2 * MARGIN_PX
    top = MARGIN_PX + 74
    card, draw = _card(width, top + plain.height + 92 + MARGIN_PX // 2)
    room = width - 2 * MARGIN_PX
    write(draw, (MARGIN_PX, MARGIN_PX + 10), answer, 30, INK, room)
    write(draw, (MARGIN_PX, MARGIN_PX + 48), name, 20, SOFT, room)
    card.paste(plain, (MARGIN_PX, top))
    card.paste(over, (MARGIN_PX + plain.width + 20, top))
    _legend(card, draw, top + plain.height + 28, room, float(np.abs(heat).max()))
    return _png(card)


def overlay(picture: Pixels, box: Box, heat: NDArray[np.float32]) -> Pixels:
    """Lay a class's map over a (H, W, 3) picture: warm where it speaks for the class, blue against.

    box: (left, top, right, bottom) of what the network saw; the rest is dimmed.
    """
    height, width = picture.shape[:2]
    left, top, right, bottom = box
    rows, columns = heat.shape
    # Beyond the rim of the map, the rim goes on: it is dimmed.
    strength = (
        _sampled(height, top, bottom, rows)
        @ (heat / max(float(np.abs(heat).max()), 1e-12))
        @ _sampled(width, left, right, columns).T
    )
    x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    seen = (x > left) & (x < right) & (y > top) & (y < bottom)
    # Grey below, so that the map's colours are not taken for the picture's.
    grey = picture @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    cover = STRONGEST * np.abs(strength)[..., None]
    hue = np.where(strength[..., None] > 0, np.array(FOR), np.array(AGAINST))
    # Lightened, too: over black no colour shows.
    light = 50 + 0.75 * grey[..., None]
    mixed = np.where(seen[..., None], (1 - cover) * light + cover * hue, 0.3 * light + 0.7 * 240)
    return np.rint(mixed).astype(np.uint8)


def _sampled(n_px: int, start: float, end: float, n: int) -> NDArray[np.float32]:
    """Weigh n places between `start` and `end` for each pixel: (n_px, n), rows summing to one.

    Smooth, through the value in the middle of each place, and never beyond its neighbours'.
    """
    at = np.clip((np.arange(n_px) + 0.5 - start) / (end - start) * n - 0.5, 0, n - 1)
    before = np.minimum(at.astype(np.int64), max(n - 2, 0))
    along = at - before
    along = along * along * (3 - 2 * along)
    weights = np.zeros((n_px, n), dtype=np.float32)
    rows = np.arange(n_px)
    weights[rows, before] = 1 - along
    weights[rows, np.minimum(before + 1, n - 1)] += along
    return weights


def _bars(draw: ImageDraw, top: int, answers: Sequence[tuple[str, float]]) -> None:
    """Draw a bar for each class, from `top` down; the surest stands out."""
    left, right = MARGIN_PX, MARGIN_PX + PICTURE_PX
    names_px = min(max(width_px(label, 24) for label, _ in answers) + 20, 0.42 * PICTURE_PX)
    start, end = left + names_px, right - 96
    for number, (label, share) in enumerate(answers):
        middle = top + 52 * number + 26
        write(draw, (left, middle), label, 24, INK, names_px - 20)
        draw.rectangle((start, middle - 13, end, middle + 13), fill="#eef0f3")
        if share * (end - start) >= 1:
            until = start + share * (end - start)
            draw.rectangle(
                (start, middle - 13, until, middle + 13), fill=BAR_SOFT if number else BAR
            )
        write(draw, (right - 84, middle), percent(share), 24, INK, 90)


def _legend(card: Image, draw: ImageDraw, top: int, room: int, strongest: float) -> None:
    """Draw the bar of colours, what its ends mean, and what the map can be trusted for."""
    length = min(420, room)
    ramp = np.linspace(-1, 1, length, dtype=np.float32)[None].repeat(18, 0)
    bare = np.full((18, length, 3), 235, dtype=np.uint8)
    colours = overlay(bare, (-1.0, -1.0, length + 1.0, 19.0), ramp)
    card.paste(_image(colours), (MARGIN_PX, top))
    draw.rectangle((MARGIN_PX - 1, top - 1, MARGIN_PX + length, top + 18), outline=LINE)
    for share, text in (
        (0.0, f"against it -{strongest:.1f}"),
        (0.5, "0"),
        (1.0, f"for it +{strongest:.1f}"),
    ):
        x = MARGIN_PX + share * (length - width_px(text, 18))
        write(draw, (x, top + 36), text, 18, SOFT, length)
    words = "What each place adds to the class's score. A pale rim was not looked at."
    write(draw, (MARGIN_PX, top + 64), words, 18, SOFT, room)


def _card(width: int, height: int) -> tuple[Image, ImageDraw]:
    from PIL import Image as PillowImage
    from PIL import ImageDraw as PillowDraw

    card = PillowImage.new("RGB", (width, height), PAPER)
    return card, PillowDraw.Draw(card)


def _fitted(picture: Pixels) -> Image:
    """Scale a picture so that its longer side fits the card."""
    from PIL import Image as PillowImage

    image = _image(picture)
    longer = max(image.size)
    wanted = min(PICTURE_PX, max(longer, ENLARGED_PX))
    size = (
        max(1, round(image.width * wanted / longer)),
        max(1, round(image.height * wanted / longer)),
    )
    return image.resize(size, PillowImage.Resampling.LANCZOS)


def _image(pixels: Pixels) -> Image:
    from PIL import Image as PillowImage

    return PillowImage.fromarray(np.ascontiguousarray(pixels))


def _png(card: Image) -> bytes:
    target = io.BytesIO()
    card.save(target, "PNG")
    return target.getvalue()
