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
    from tellapart.inference.classifier import Classifier, Prediction
    from tellapart.pipeline import Evaluation, TrainResult, evaluate, train

__all__ = [
    "Classifier",
    "Evaluation",
    "Prediction",
    "TellapartError",
    "TrainResult",
    "__version__",
    "evaluate",
    "train",
]

_HOMES = {
    "Classifier": "tellapart.inference.classifier",
    "Prediction": "tellapart.inference.classifier",
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
