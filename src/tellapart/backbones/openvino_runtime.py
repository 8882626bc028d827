"""Run a frozen network on this machine's processors, through OpenVINO. Needs no torch."""

from __future__ import annotations

import io
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tellapart.data.pixels import available_cores, processes_here


def _import_openvino() -> ModuleType:
    """Import OpenVINO without its model converter, which is not used here.

    Importing the converter sends a usage event over the network, unasked, and writes an
    identifier into the home directory (OpenVINO 2026.4, openvino/tools/ovc/__init__.py). Nothing
    of tellapart may do that. It also takes a third of the import's time.
    """
    converter = "openvino.tools.ovc"
    if "openvino" in sys.modules:
        return import_module("openvino")
    sys.modules[converter] = None  # type: ignore[assignment]
    try:
        return import_module("openvino")
    finally:
        # Others in this process may want it, and import it knowingly.
        del sys.modules[converter]


ov = _import_openvino()

Precision = Literal["bf16", "f32"]

# Larger batches were not faster on 2 cores (269 pictures/s at 4, 251 at 8, 225 at 16 on a shared
# machine), and eight keeps the memory small.
BATCH = 8


def best_precision() -> Precision:
    """Name the precision that is fastest here without costing accuracy.

    16-bit where the processor computes in it (the same ImageNet top-1 on 98.4 % of pictures and
    the same accuracy, twice the speed); otherwise 32-bit.
    """
    return "bf16" if "BF16" in _capabilities() else "f32"


class OpenVinoRuntime:
    """A frozen graph, compiled for the processors of this machine.

    Args:
        graph: ONNX bytes with one input: `pixels` (batch, S, S, 3) uint8, or `activations`
            (batch, ...) float32.
        output: which output to compute; what is not needed for it is cut away.
        precision: "bf16", "f32", or None for `best_precision()`.
        latency: compile for one picture at a time on all cores, rather than for streams of
            batches, each stream on some of the cores.
        n_threads: cores to keep busy; None: all of this process.
        batch: pictures of a batch in a stream.
    """

    def __init__(
        self,
        graph: bytes,
        output: str = "features",
        precision: Precision | None = None,
        latency: bool = False,
        n_threads: int | None = None,
        batch: int = BATCH,
    ) -> None:
        self._n_threads = n_threads
        self.precision: Precision = precision or best_precision()
        self.batch = 1 if latency else batch
        self._latency = latency
        self._own = threading.local()
        model = _core().read_model(io.BytesIO(graph))
        self._constants = {
            op.get_friendly_name(): op for op in model.get_ops() if op.get_type_name() == "Constant"
        }
        model = ov.Model([model.output(output)], model.get_parameters(), "frozen")
        _, *shape = model.input(0).get_partial_shape()
        self._shape = (self.batch, *(int(axis.get_length()) for axis in shape))
        model.reshape(list(self._shape))
        self._model = model

    @property
    def size_px(self) -> int:
        """Side of the pictures that a graph takes whose input is pixels."""
        return self._shape[1]

    @property
    def identity(self) -> str:
        """What, besides graph and pixels, can change the numbers: part of the key of kept sets."""
        return f"openvino {ov.__version__.split('-')[0]} {self.precision}"

    def constant(self, name: str) -> NDArray[np.float32]:
        """Return a named constant of the graph, such as "head.weight"."""
        return np.array(self._constants[name].data, dtype=np.float32)

    @cached_property
    def _compiled(self) -> Any:
        """Compile when first needed: where everything is kept, it never is (0.4 s)."""
        hints: dict[str, object] = {
            "PERFORMANCE_HINT": "LATENCY" if self._latency else "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": self.precision,
        }
        shared = processes_here() > 1
        n_threads = self._n_threads or (available_cores() if shared else None)
        if n_threads:
            hints["INFERENCE_NUM_THREADS"] = n_threads
        if shared:
            # Else they all pin their threads to the same cores.
            hints["ENABLE_CPU_PINNING"] = False
        return _core().compile_model(self._model, "CPU", hints)

    def run(self, arrays: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float16]]:
        """Compute the output for each picture or activation, in order, as float16.

        arrays: (S, S, 3) uint8 pixels, or activations of the shape that the graph takes. They
            are gathered into batches and several batches are under way at once, so the iterable
            is read some of them ahead of what is yielded.
        """
        # One more than can run, so that a finished one is never waited for.
        idle = [self._compiled.create_infer_request() for _ in range(self.n_streams + 1)]
        under_way: deque[tuple[Any, int]] = deque()
        buffer = np.zeros(self._shape, dtype=self._model.input(0).get_element_type().to_dtype())
        filled = 0
        for array in arrays:
            buffer[filled] = array
            filled += 1
            if filled == self.batch:
                if not idle:
                    yield from self._finish(under_way, idle)
                self._start(idle, under_way, buffer, filled)
                filled = 0
        if filled:
            if not idle:
                yield from self._finish(under_way, idle)
            self._start(idle, under_way, buffer, filled)
        while under_way:
            yield from self._finish(under_way, idle)

    @cached_property
    def n_streams(self) -> int:
        """How many batches this machine computes at the same time; asking takes half a ms."""
        return int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def compute(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[np.float16]]:
        """Compute the output for just as many as a batch has; threads may do so side by side."""
        request = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self._compiled.create_infer_request()
        data = request.get_input_tensor(0).data
        for row, array in enumerate(arrays):
            data[row] = array
        request.infer()
        return list(as_kept(request.get_output_tensor(0).data[: len(arrays)]))

    def _start(
        self, idle: list[Any], under_way: deque[tuple[Any, int]], buffer: NDArray[Any], filled: int
    ) -> None:
        request = idle.pop()
        request.get_input_tensor(0).data[:] = buffer
        request.start_async()
        under_way.append((request, filled))

    @staticmethod
    def _finish(
        under_way: deque[tuple[Any, int]], idle: list[Any]
    ) -> Iterator[NDArray[np.float16]]:
        request, filled = under_way.popleft()
        request.wait()
        yield from as_kept(request.get_output_tensor(0).data[:filled])
        idle.append(request)


def as_kept(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Round to the 16 bits in which activations are kept, without overflow to infinity.

    Prediction rounds the same way as training, so that both see the same numbers.
    """
    limit = float(np.finfo(np.float16).max)
    return np.clip(values, -limit, limit).astype(np.float16)


def run_file(path: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute the only output of a model file (ONNX or OpenVINO's own) in 32 bits, unrounded."""
    compiled = _core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    # One picture at a time: files may have been written for a batch of one.
    return np.concatenate(
        [np.array(compiled(pixels[row : row + 1])[0]) for row in range(len(pixels))]
    )


def save_ir(graph: bytes, path: Path, facts: Mapping[str, str]) -> None:
    """Write ONNX bytes as OpenVINO's own format, .xml and .bin, in 32 bits.

    facts: what `model.get_rt_info(["model_info", name])` shall answer.
    """
    model = _core().read_model(io.BytesIO(graph))
    for name, value in facts.items():
        model.set_rt_info(value, ["model_info", name])
    ov.save_model(model, str(path), compress_to_fp16=False)


@cache
def _core() -> Any:
    """Make the one Core of this process: it loads plugins."""
    return ov.Core()


def _capabilities() -> list[str]:
    return list(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
