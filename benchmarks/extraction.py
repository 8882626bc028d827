"""Pictures/s from JPEG files to features: tellapart, its bound, and the plain loop.

The bound is what decoding and network would take together if nothing else cost anything:
1 / (1 / decode-only + 1 / network-only), both with all cores. The ways take turns, and a ratio
is taken within each turn. Files were read once before, so the disk is not measured.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from _machine import describe
from _measuring import Figure, data_folder, options, report

if TYPE_CHECKING:
    from tellapart.backbones.network import Network
    from tellapart.backbones.openvino_runtime import OpenVinoRuntime
    from tellapart.data.pixels import Pixels

ONE_CORE_N = 128


def jpegs(folder: Path, n: int) -> list[str]:
    """Pick at most n JPEG files, spread over all that lie below a folder."""
    paths = sorted(str(path) for path in folder.rglob("*.jp*g"))
    return paths[:: max(1, len(paths) // n)][:n]


def compare(
    paths: list[str], network: Network, runtime: OpenVinoRuntime, repeats: int
) -> dict[str, list[float]]:
    """Measure every way in turns; rates in pictures/s, and ratios within each turn."""
    from _plain_loop import pictures_per_s

    from tellapart.data.pixels import decode_many, read_pixels

    read = partial(read_pixels, preprocessing=network.backbone.preprocessing)

    def decoded() -> Iterator[Pixels]:
        for picture in decode_many(paths, read):
            if isinstance(picture, Exception):
                raise picture
            yield picture

    pixels = list(decoded())
    for _ in runtime.run(iter(pixels)):
        pass  # the first run prepares kernels
    found = defaultdict(list)
    for _ in range(repeats):
        ours = rate(len(paths), lambda: runtime.run(decoded()))
        decode = rate(len(paths), decoded)
        network_only = rate(len(paths), lambda: runtime.run(iter(pixels)))
        plain = pictures_per_s(paths, network)
        bound = 1 / (1 / decode + 1 / network_only)
        found["tellapart, pictures/s"].append(ours)
        found["decode only, pictures/s"].append(decode)
        found["network only, pictures/s"].append(network_only)
        found["bound, pictures/s"].append(bound)
        found["plain loop, pictures/s"].append(plain)
        found["tellapart / plain loop"].append(ours / plain)
        found["tellapart / bound"].append(ours / bound)
    return found


def rate(n: int, start: Callable[[], Iterator[object]]) -> float:
    """Exhaust an iterator of n things and say how many came each second."""
    began = time.perf_counter()
    for _ in start():
        pass
    return n / (time.perf_counter() - began)


def one_core(paths: list[str], network: Network, repeats: int) -> dict[str, list[float]]:
    """Measure each decoder in one thread, in turns: pictures/s of processor time.

    Processor time, not the clock's: what others do on the machine then disturbs less.
    """
    import torch
    from _plain_loop import read, tutorial_transform

    from tellapart.data.pixels import decode, read_file, read_pixels

    torch.set_num_threads(1)
    preprocessing = network.backbone.preprocessing
    transform = tutorial_transform(network.backbone)
    decoders: dict[str, Callable[[str], object]] = {
        "Pillow + torchvision": lambda path: read(path, transform),
        "tellapart": lambda path: read_pixels(path, preprocessing),
        "tellapart without resize": lambda path: decode(read_file(path), preprocessing.size_px),
    }
    found = defaultdict(list)
    for _ in range(repeats):
        for name, decoder in decoders.items():
            began = time.process_time()
            for path in paths:
                decoder(path)
            seconds = time.process_time() - began
            found[f"one thread, {name}, pictures/s"].append(len(paths) / seconds)
    return found


def main() -> None:
    given = options(__doc__, n=1024, n_means="pictures a folder", quick_n=64, repeats=5)
    folders = {name: data_folder(name) for name in ("flowers102", "hymenoptera")}
    machine = describe()
    from _plain_loop import default_network

    from tellapart.backbones.network import export_graph
    from tellapart.backbones.openvino_runtime import OpenVinoRuntime

    network = default_network()
    runtime = OpenVinoRuntime(export_graph(network, network.backbone.preprocessing))
    found: dict[str, list[float]] = {}
    pictures = {name: jpegs(folder, given.n) for name, folder in folders.items()}
    for name, paths in pictures.items():
        values = compare(paths, network, runtime, given.repeats)
        found |= {f"{name} ({len(paths)}): {what}": value for what, value in values.items()}
    for name, paths in pictures.items():
        few = paths[:: max(1, len(paths) // ONE_CORE_N)]
        values = one_core(few, network, given.repeats)
        found |= {f"{name} ({len(few)}): {what}": value for what, value in values.items()}
    targets = {"tellapart / plain loop": 6.0, "tellapart / bound": 0.8}
    figures = [
        Figure(name, values, at_least=targets.get(name.partition(": ")[2]))
        for name, values in found.items()
    ]
    report("extraction", machine, given, figures)


if __name__ == "__main__":
    main()
