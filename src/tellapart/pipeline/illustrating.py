"""Answers as pictures beside the printed ones: `predict --show` and `predict --explain`."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tellapart.data.pixels import decode, read_file, seen_box
from tellapart.errors import UnreadablePicture
from tellapart.evaluation.report import percent
from tellapart.files import on_this_machine, output_error, write_atomically
from tellapart.inference.classifier import Classifier, Prediction
from tellapart.inference.drawing import PICTURE_PX, answer_png, explanation_png
from tellapart.inference.lettering import unwritable
from tellapart.stores import shown

CURE = "name another folder"


@dataclass(frozen=True)
class Illustrator:
    """Draws answers into folders.

    show: a PNG a picture, with the bars of its most probable classes. explain: one with the map
        of what speaks for its answer. None: not wanted.
    base: the folder that all pictures lie below; files are named as the pictures are below it,
        so that no two get the same name.
    """

    classifier: Classifier
    show: Path | None
    explain: Path | None
    base: Path

    def draw(self, prediction: Prediction) -> tuple[Path, ...]:
        """Draw one answer; return the files written: none for a picture that cannot be read.

        Raises:
            DiskFull, NotWritable.
        """
        if prediction.label is None or prediction.confidence is None:
            return ()
        written = []
        name = shown(prediction.path)
        try:
            picture = decode(read_file(prediction.path), PICTURE_PX)
            if self.show is not None:
                note = f"Unsure: {prediction.reason}" if prediction.unsure else None
                answers = [(prediction.shown(name), share) for name, share in prediction.top]
                png = answer_png(picture, name, answers, note)
                written.append(self._write(self.show, name, "answer", png))
            if self.explain is not None:
                found = self.classifier.explain(prediction.path, prediction.label)
                height, width, _ = picture.shape
                box = seen_box(height, width, self.classifier.manifest.preprocessing)
                said = f"{prediction.shown(found.label)}: {percent(prediction.confidence)} sure"
                png = explanation_png(picture, box, found.heat, name, said)
                written.append(self._write(self.explain, name, "why", png))
        except UnreadablePicture:
            # Taken away since it was answered.
            return tuple(written)
        return tuple(written)

    def _write(self, folder: Path, path: str, what: str, png: bytes) -> Path:
        whole = Path(os.path.abspath(path))  # noqa: PTH100
        try:
            below = whole.relative_to(self.base)
        except ValueError:
            # Named by a table or a list: its whole path, or two of one name would meet.
            below = Path(*whole.parts[1:])
        # With the picture's own suffix: cat.jpg and cat.png may lie side by side.
        target = folder / below.with_name(f"{below.name}.{what}.png")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(target.parent, error, CURE) from error
        write_atomically(target, png, CURE)
        return target


def open_illustrator(
    classifier: Classifier, pictures: Sequence[str], show: Path | None, explain: Path | None
) -> Illustrator:
    """Get ready to draw answers about pictures, given as files, folders or patterns.

    Raises:
        NotExplainable: explanations are wanted, and there can be none. BadAddress.
    """
    if explain is not None:
        _ = classifier.explainer
        explain = on_this_machine(explain, "pictures are drawn", CURE)
    if show is not None:
        show = on_this_machine(show, "pictures are drawn", CURE)
    return Illustrator(classifier, show, explain, common_folder(pictures))


def unwritable_names(classifier: Classifier) -> str | None:
    """Say which letters of the class names no font here has; None where all can be written."""
    letters = unwritable("".join(classifier.manifest.shown))
    if not letters:
        return None
    some = letters[:10] + ("…" if len(letters) > 10 else "")
    return (
        f"No font on this machine has the letters {some} of the class names: boxes stand for "
        f"them in the pictures that are drawn. Install one that has, such as Noto Sans."
    )


def common_folder(pictures: Sequence[str]) -> Path:
    """Return the deepest folder that all of these files, folders and patterns lie in."""
    folders = []
    for text in map(os.path.expanduser, pictures):
        path = Path(os.path.abspath(text))  # noqa: PTH100
        if glob.has_magic(text) and not path.exists():
            fixed = [i for i, part in enumerate(path.parts) if glob.has_magic(part)]
            path = Path(*path.parts[: fixed[0]])
            folders.append(path)
        else:
            folders.append(path if path.is_dir() else path.parent)
    return Path(os.path.commonpath(folders))
