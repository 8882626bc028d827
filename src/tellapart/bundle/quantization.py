"""The graph in 8 bits, by post-training quantisation. Needs the extra `quantize`, and no torch."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType

import onnx

from tellapart.data.pixels import Pixels
from tellapart.errors import MissingExtra

# Ranges settle with few pictures; NNCF's own default is 300.
MAX_CALIBRATION = 300


def quantised(graph: bytes, pictures: Sequence[Pixels]) -> bytes:
    """Return the graph with the backbone in 8 bits; inputs, outputs and head stay as they are.

    pictures: (S, S, 3) uint8 each, as the network sees them; the ranges of all values are taken
        from them, so they must be such as it will meet. The head stays in 32 bits: it costs
        nothing, and `head.weight` and `head.bias` can still be read and replaced.

    Raises:
        MissingExtra: NNCF or ONNX Runtime is not installed.
    """
    # It prints bars and notes to standard output, which belongs to what commands print.
    with _silent(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nncf = _import_nncf()
        model = nncf.quantize(
            onnx.load_from_string(graph),
            nncf.Dataset([{"pixels": picture[None]} for picture in pictures]),
            subset_size=len(pictures),
            ignored_scope=nncf.IgnoredScope(names=["head"]),
        )
    return bytes(model.SerializeToString())


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the package away through which NNCF and OpenVINO tell their makers that they are used.

    With openvino_telemetry NNCF sends an event over the network for each call, unasked (NNCF 3.4,
    nncf/telemetry/wrapper.py), and imports OpenVINO's converter, which does so too; without, both
    say nothing. NNCF imports some of its parts only when it is called.
    """
    names = ("openvino_telemetry", "openvino.tools.ovc")
    before = {name: sys.modules.get(name) for name in names}
    sys.modules |= dict.fromkeys(names)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _import_nncf() -> ModuleType:
    # Where torch is installed NNCF imports it too, which warns that there is no GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        import nncf
        import onnxruntime  # noqa: F401  (what NNCF runs ONNX graphs with)
    except ImportError as error:
        raise MissingExtra(
            f"Quantising to 8 bits needs NNCF and ONNX Runtime, and {error.name} is not installed. "
            f"Nothing was written. Install them with: pip install 'tellapart[quantize]'. Using an "
            f"8-bit graph that a bundle carries does not need them."
        ) from error
    nncf.set_log_level(logging.ERROR)
    module: ModuleType = nncf
    return module
