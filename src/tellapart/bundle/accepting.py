"""How sure an answer must be, looked at and moved in a bundle without training anything."""

from __future__ import annotations

from pathlib import Path

from tellapart.bundle.bundle import open_bundle, rewrite_bundle
from tellapart.evaluation.decision import Rules, with_accept
from tellapart.files import check_writable
from tellapart.stores import place

CHOICES = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


def trade_off(path: str | Path) -> tuple[Rules, tuple[Rules, ...]]:
    """Return the rules of a bundle, and what they would be for other wanted accuracies.

    Raises:
        BundleNotFound, BundleDamaged, BundleFromFuture.
    """
    rules = open_bundle(path).manifest.calibration.rules
    return rules, tuple(with_accept(rules, accept) for accept in CHOICES)


def set_accept(path: str | Path, accept: float, output: str | Path | None = None) -> Rules:
    """Set the accuracy wanted among the answered, in the file itself or a copy; return the rules.

    All else in the bundle stays as it is, to the byte. It is written whole or not at all.

    Raises:
        BundleNotFound, BundleDamaged, BundleFromFuture, DiskFull, NotWritable.
    """
    bundle = open_bundle(path)
    target = place(output) if output else bundle.path
    check_writable(target)
    calibration = bundle.manifest.calibration
    rules = with_accept(calibration.rules, accept)
    changed = calibration.model_copy(update={"rules": rules})
    rewrite_bundle(bundle, bundle.manifest.model_copy(update={"calibration": changed}), target)
    return rules
