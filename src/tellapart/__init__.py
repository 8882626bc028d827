"""tellapart: tell pictures apart.

>>> import tellapart
>>> result = tellapart.train("photos")                              # doctest: +SKIP
>>> tellapart.Classifier.load("photos.tellapart").predict(["a.jpg"])  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from tellapart.errors import TellapartError
    from tellapart.inference.classifier import Classifier, Prediction, Predictions
    from tellapart.pipeline import Evaluation, TrainResult, evaluate, train
    from tellapart.pipeline.estimator import PictureClassifier
    from tellapart.pipeline.exporting import export, quantize

__all__ = [
    "Classifier",
    "Evaluation",
    "PictureClassifier",
    "Prediction",
    "Predictions",
    "TellapartError",
    "TrainResult",
    "__version__",
    "evaluate",
    "export",
    "quantize",
    "train",
]

_HOMES = {
    "Classifier": "tellapart.inference.classifier",
    "Prediction": "tellapart.inference.classifier",
    "Predictions": "tellapart.inference.classifier",
    "PictureClassifier": "tellapart.pipeline.estimator",
    "export": "tellapart.pipeline.exporting",
    "quantize": "tellapart.pipeline.exporting",
    "Evaluation": "tellapart.pipeline",
    "TrainResult": "tellapart.pipeline",
    "evaluate": "tellapart.pipeline",
    "train": "tellapart.pipeline",
    "TellapartError": "tellapart.errors",
}


def __getattr__(name: str) -> Any:
    """Import on first use: `tellapart --help` must not wait for numerical libraries."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("tellapart")
    raise AttributeError(f"module 'tellapart' has no attribute {name!r}")
