"""How busy a tail epoch keeps the cores, and how memory grows with the number of pictures.

An epoch on kept views against the pure computation of its steps: the same number of steps on one
batch that lies in memory already. Then whole trainings on 2000 and on 7000 pictures, all kept
before, so that their peak is that of learning, not of looking.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from _machine import describe
from _measuring import Figure, data_folder, options, report, tellapart, timed
from head_only import flowers

if TYPE_CHECKING:
    from torch import Tensor

    from tellapart.training.finetune import Pictures, Stepper

SIZES = (2000, 7000)


def epoch_shares(data: Path, repeats: int) -> dict[str, list[float]]:
    """Time an epoch, and the same steps without reading anything, in turns."""
    from time_to_accuracy import material, phases

    from tellapart.training.finetune import Stepper, set_mode
    from tellapart.training.folding import folded
    from tellapart.training.tuning import Tuner

    stuff = material(data, 10**6)
    tuner = Tuner(stuff)
    phase = phases()["tail"].model_copy(update={"views": 1})
    tuner.begin(1, phase, None, None, False)
    prepared = tuner.prepare(phase)
    if prepared is None:
        raise RuntimeError("a phase without a deadline is always prepared")
    stepper = Stepper(prepared.learner, prepared.phase, None, tuner.fabric)
    set_mode(prepared.learner, prepared.phase)
    pictures = prepared.pictures
    found = defaultdict(list)
    example = next(iter(pictures.source.plain([pictures.train[:2]])))
    with folded(prepared.learner.module, stepper.prepared(example)):
        for repeat in range(repeats):
            share, rate = one_epoch(stepper, pictures, repeat)
            found["pure computation / epoch"].append(share)
            found["pictures/s in an epoch"].append(rate)
    return found


def one_epoch(stepper: Stepper, pictures: Pictures, repeat: int) -> tuple[float, float]:
    """Return what share of an epoch its bare steps take, and its pictures/s."""
    import numpy as np
    import torch

    from tellapart.training.sources import batches_of

    mixing = np.random.default_rng(0)
    size = stepper.phase.batch
    order = np.random.default_rng(repeat).permutation(pictures.train)
    batches = [rows for rows in batches_of(order, size) if len(rows) == size]

    def run(inputs: Iterable[Tensor]) -> float:
        start = time.perf_counter()
        for batch, rows in zip(inputs, batches, strict=True):
            stepper.learn(batch, torch.from_numpy(pictures.labels[rows]), mixing)
            stepper.step()
        return time.perf_counter() - start

    epoch_s = run(pictures.source.views(batches, repeat))
    in_memory = next(iter(pictures.source.plain(batches[:1])))
    pure_s = run([in_memory] * len(batches))
    return pure_s / epoch_s, len(batches) * size / epoch_s


def peak_mb(n: int) -> float:
    """Train on n flowers twice, and return the peak of the second, for which all is kept."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = flowers(n, folder / "flowers")
        command = tellapart("train", data, "-o", folder / "m.tellapart", "-q", "--json")
        settings = ["--set", "phases.2.epochs=2", "--set", "phases.2.views=3"]
        places = {"TELLAPART_CACHE": str(folder / "c"), "TELLAPART_RUNS": str(folder / "r")}
        timed([*command, *settings], **places)
        return timed([*command, *settings], **places).peak_mb


def measure(given: argparse.Namespace) -> dict[str, list[float]]:
    sizes = SIZES if not given.quick else (100, 200)
    peaks = {n: peak_mb(n) for n in sizes}
    found = {f"{n} pictures: peak MB": [peak] for n, peak in peaks.items()}
    found["peak at the larger / at the smaller"] = [peaks[sizes[1]] / peaks[sizes[0]]]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TELLAPART_CACHE"] = cache
        found |= epoch_shares(data_folder("intel_scenes"), given.repeats)
    return found


def main() -> None:
    given = options(__doc__, n=1800, n_means="not used", quick_n=60, repeats=5)
    machine = describe()
    targets = {"pure computation / epoch": 0.85}
    figures = [
        Figure(name, values, at_least=targets.get(name)) for name, values in measure(given).items()
    ]
    report("tail_epoch", machine, given, figures)


if __name__ == "__main__":
    main()
