"""Where in a picture an answer comes from: class activation maps, exact and without torch.

Where the last maps are averaged and a linear head follows, a logit is a sum over places:
logit = mean over places of (head weights . maps at the place) + bias. What each place adds is
its class activation map (Zhou et al. 2016, Learning Deep Features for Discriminative
Localization, equation 2): no gradients, and nothing is estimated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tellapart.backbones.openvino_runtime import OpenVinoRuntime, Precision
from tellapart.data.pixels import Pixels
from tellapart.errors import NotExplainable

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why one picture got one class.

    heat: (H, W) float32, what each place says for the class (above zero) or against it; its mean
        plus `bias` is the class's logit. The places tile what the network saw of the picture,
        see `data.pixels.seen_box`.
    """

    path: str
    label: str
    confidence: float
    heat: Floats
    bias: float


class Explainer:
    """The last maps of a finished graph, and its head.

    Args:
        graph: ONNX bytes with a head: `pixels` in; `features`, `logits` and `maps` out.
        mirrored: whether the features are the mean over the picture and its mirror.

    Raises:
        NotExplainable: the graph has no `maps`; the message asks for another backbone.
    """

    def __init__(
        self,
        graph: bytes,
        backbone: str,
        mirrored: bool = False,
        precision: Precision | None = None,
    ) -> None:
        try:
            self._runtime = OpenVinoRuntime(graph, "maps", precision, latency=True)
        except RuntimeError as error:
            raise NotExplainable(
                f"There is no map of why {backbone} answers as it does: hidden layers lie between "
                f"what it sees at each place and its answer, so no place can be said to have "
                f"spoken for a class. Expected was a backbone that averages its last maps, as "
                f"EfficientNet, ResNet, ResNeXt, DenseNet, Inception and SqueezeNet do. Nothing "
                f"was explained. Go on without explanations, or train with another --backbone."
            ) from error
        self._mirrored = mirrored
        self.weight = self._runtime.constant("head.weight")
        self.bias = self._runtime.constant("head.bias")

    def maps(self, pictures: Iterable[Pixels]) -> Iterator[Floats]:
        """Yield the (C, H, W) maps of each (S, S, 3) picture; their means are the features."""
        if not self._mirrored:
            for maps in self._runtime.run(pictures):
                yield maps.astype(np.float32)
            return
        pairs = (view for picture in pictures for view in (picture, picture[:, ::-1]))
        both = self._runtime.run(pairs)
        for plain, mirror in zip(both, both, strict=True):
            halves = np.stack([plain, mirror[:, :, ::-1]]).astype(np.float32)
            yield halves.mean(axis=0, dtype=np.float32)

    def heat(self, maps: Floats, row: int) -> Floats:
        """Return (H, W): what each place says for class number `row`, or against it."""
        heat: Floats = np.tensordot(self.weight[row], maps, axes=1)
        return heat

    def logits(self, maps: Floats) -> Floats:
        """Compute the (K,) logits of a picture from its (C, H, W) maps."""
        logits: Floats = self.weight @ maps.mean(axis=(1, 2)) + self.bias
        return logits
