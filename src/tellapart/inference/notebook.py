"""Answers as people look at them in a notebook: pictures with bars, and frames."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tellapart.data.thumbnails import data_uri, jpeg, shrunk
from tellapart.errors import MissingExtra, UnreadablePicture

if TYPE_CHECKING:
    import pandas

    from tellapart.inference.classifier import Prediction

THUMBNAIL_PX = 128
# A notebook keeps what it shows: a thousand pictures would make it tens of megabytes.
MAX_SHOWN = 24


def as_html(predictions: Sequence[Prediction]) -> str:
    """Draw each answer as a small picture with a bar for each of its classes, as HTML."""
    shown = "".join(_one(prediction) for prediction in predictions[:MAX_SHOWN])
    more = len(predictions) - MAX_SHOWN
    rest = f"<p>… and {more} more pictures.</p>" if more > 0 else ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:16px">{shown}</div>{rest}'


def as_frame(predictions: Sequence[Prediction]) -> pandas.DataFrame:
    """Return a frame with a row a picture.

    Columns: what `as_dict` says but `top`, and "p(CLASS)" for each class that is in some `top`,
    NaN where it is not in this picture's.

    Raises:
        MissingExtra: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingExtra(
            "A frame needs pandas, which is not installed. Nothing was made. Install it with: "
            "pip install pandas"
        ) from error
    rows = []
    for prediction in predictions:
        facts = prediction.as_dict()
        del facts["top"]
        rows.append(facts | {f"p({label})": value for label, value in prediction.top})
    return pandas.DataFrame(rows)


def _one(prediction: Prediction) -> str:
    name = html.escape(os.path.basename(prediction.path))  # noqa: PTH119  (any text, not a path)
    if prediction.error is not None:
        lines = f"not read: it {html.escape(prediction.error)}"
    else:
        lines = "".join(_bar(prediction.shown(label), value) for label, value in prediction.top)
    return (
        f'<figure style="margin:0;width:{THUMBNAIL_PX + 220}px;display:flex;gap:8px">'
        f'{_picture(prediction)}<figcaption style="flex:1;min-width:0;overflow-wrap:anywhere">'
        f"<b>{name}</b>{lines}</figcaption></figure>"
    )


def _bar(label: str, value: float) -> str:
    return (
        f'<div style="font-size:90%">{html.escape(label)} {value:.1%}'
        f'<div style="background:#4a7db8;height:5px;width:{100 * value:.1f}%"></div></div>'
    )


def _picture(prediction: Prediction) -> str:
    """Draw the picture as an <img> that holds its bytes; nothing where there is none to draw."""
    given = prediction.path if prediction.picture is None else prediction.picture
    if hasattr(given, "read"):
        # Its bytes were read when it was answered; it may not be there a second time.
        return ""
    try:
        small = jpeg(shrunk(given, THUMBNAIL_PX))
    except UnreadablePicture:
        return ""
    style = f"width:{THUMBNAIL_PX}px;object-fit:contain"
    return f'<img alt="" style="{style}" src="{data_uri(small)}">'
