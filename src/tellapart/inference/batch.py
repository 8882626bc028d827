"""Predict any number of pictures into an output: streaming, resumable, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from tellapart.inference.classifier import Prediction
from tellapart.inference.outputs import Output
from tellapart.progress import Progress


class Engine(Protocol):
    """What answers for paths: a `Classifier` here, or the `Cluster` of `open_cluster`."""

    def stream(
        self, pictures: Iterable[str], top: int = 5, ordered: bool = True
    ) -> Iterator[Prediction]: ...


@dataclass
class Tally:
    """How far a run has come.

    n: answers written. n_unreadable: of these, errors. n_held: skipped, since the output held
    them. seconds: from the first picture to the last.
    """

    n: int = 0
    n_unreadable: int = 0
    n_held: int = 0
    seconds: float = 0.0

    @property
    def pictures_per_s(self) -> float:
        """Answers a second, start of the network included."""
        return self.n / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as plain JSON types."""
        return {
            "n": self.n,
            "n_unreadable": self.n_unreadable,
            "n_held": self.n_held,
            "seconds": round(self.seconds, 3),
            "pictures_per_s": round(self.pictures_per_s, 1),
        }


def predict_into(
    engine: Engine,
    paths: Iterable[str],
    output: Output,
    *,
    top: int = 5,
    ordered: bool = True,
    total: int | None = None,
    progress: Progress | None = None,
    tally: Tally | None = None,
) -> Tally:
    """Write an answer, or why there is none, for each path that `output` does not hold yet.

    Decoding, the network and writing go on side by side, and no more than some dozens of pictures
    are in memory, however many there are. Where the run is stopped, by Ctrl-C too, the output is
    whole rows, and the same call with an output opened to resume goes on from there.

    total: how many paths there are, to tell the time left; None where nobody knows.
    tally: counted in as the run goes on, for who wants to know after an interruption.
    """
    tally = tally if tally is not None else Tally()
    progress = progress or Progress("quiet")
    start = time.perf_counter()
    held = output.held
    left = None if total is None else max(0, total - len(held))
    with progress.bar("Predicting", left, "pictures") as advance, output:

        def missing() -> Iterator[str]:
            for path in paths:
                if held.take(path):
                    tally.n_held += 1
                else:
                    yield path

        for prediction in engine.stream(missing(), top, ordered):
            output.write(prediction)
            tally.n += 1
            tally.n_unreadable += prediction.error is not None
            tally.seconds = time.perf_counter() - start
            advance(1)
    return tally
