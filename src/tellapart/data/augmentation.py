"""Random views of a picture: what a network may learn not to look at, as a list of steps.

The steps do what torchvision's transforms of the same names do to a Pillow image. Those draw from
one global generator, so a picture's view would depend on the thread that asked first. Here each
view has a generator of its own, made from the picture's bytes and the view's number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from tellapart.data.pixels import (
    REDUCE_TO,
    Pixels,
    Preprocessing,
    decode,
    fit_pixels,
    read_file,
    resize,
    shortest_needed_px,
)

if TYPE_CHECKING:
    from PIL import Image


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the lower end {pair[0]} is above the upper end {pair[1]}")
    return pair


SizePx: TypeAlias = Annotated[int, Field(ge=8, le=4096)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Area: TypeAlias = Annotated[float, Field(gt=0, le=1)]
Aspect: TypeAlias = Annotated[float, Field(ge=0.1, le=10)]


class _Step(BaseModel):
    """One change to a (H, W, 3) uint8 picture, whose strength is drawn anew for each view."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    op: str

    @model_serializer(mode="wrap")
    def _always_with_op(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes are written without defaults; a step without its op could not be read back.
        fields: dict[str, Any] = handler(self)
        return {"op": self.op} | fields

    def apply(
        self, picture: Pixels, preprocessing: Preprocessing, generator: np.random.Generator
    ) -> Pixels:
        """Change a picture; every draw is from the generator."""
        raise NotImplementedError


class Resize(_Step):
    """Scale both sides to size_px, whatever the shape was; bilinear, averaging what it shrinks."""

    op: Literal["resize"] = "resize"
    size_px: SizePx

    def apply(
        self, picture: Pixels, preprocessing: Preprocessing, generator: np.random.Generator
    ) -> Pixels:
        return resize(picture, self.size_px, "bilinear")


class CentreCrop(_Step):
    """Take the square of size_px in the middle; a smaller picture gets a black border first."""

    op: Literal["centre_crop"] = "centre_crop"
    size_px: SizePx

    def apply(
        self, picture: Pixels, preprocessing: Preprocessing, generator: np.random.Generator
    ) -> Pixels:
        picture = _with_border(picture, self.size_px)
        # Halves go to the even side, as in torchvision.
        top, left = (round((side - self.size_px) / 2) for side in picture.shape[:2])
        return picture[top : top + self.size_px, left : left + self.size_px]


class RandomCrop(_Step):
    """Take a square of size_px anywhere; a smaller picture gets a black border first."""

    op: Literal["random_crop"] = "random_crop"
    size_px: SizePx

    def apply(
        self, picture: Pixels, preprocessing: Preprocessing, generator: np.random.Generator
    ) -> Pixels:
        picture = _with_border(picture, self.size_px)
        top, left = (int(generator.integers(n - self.size_px + 1)) for n in picture.shape[:2])
        return picture[top : top + self.size_px, left : left + self.size_px]


class RandomResizedCrop(_Step):
    """Take a part of random area and aspect, and scale it to size_px as the input is scaled.

    Tried ten times (Szegedy et al. 2014, arXiv:1409.4842, section 6); if no part fits, the middle
    of the picture, as much as the aspect allows.

    Attributes:
        size_px: side of the result; None: the input's.
        area: smallest and largest share of the picture.
        aspect: smallest and largest width / height of the part; its logarithm is uniform.
    """

    op: Literal["random_resized_crop"] = "random_resized_crop"
    size_px: SizePx | None = None
    area: Annotated[tuple[Area, Area], AfterValidator(_rising)] = (0.35, 1.0)
    aspect: Annotated[tuple[Aspect, Aspect], AfterValidator(_rising)] = (3 / 4, 4 / 3)

    def apply(
        self, picture: Pixels, preprocessing: Preprocessing, generator: np.random.Generator
    ) -> Pixels:
        top, left, part_h, part_w = self._part(picture.shape[0], picture.shape[1], generator)
        part = picture[top : top + part_h, left : left + part_w]
        return resize(part, self.size_px or preprocessing.size_px, preprocessing.interpolation)

    def _part(
        self, height: int, width: int, generator: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Draw a part of a picture: its top, left, height and width."""
        narrow, wide = self.aspect
        for _ in range(10):
            area = height * width * generator.uniform(*self.area)
            aspect = math.exp(generator.uniform(math.log(narrow), math.log(wide)))
            part_w, part_h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < part_w <= width and 0 < part_h <= height:
                top = int(generator.integers(height - part_h + 1))
                left = int(generator.integers(width - part_w + 1))
                return top, left, part_h, part_w
        part_h = min(height, max(1, round(width / narrow)))
        part_w = min(width, max(1, round(height * wide)))
        return (height - part_h) // 2, (width - part_w) // 2, part_h, part_w


class Rotate(_Step):
    """Turn by a random angle within ±degrees; the corners that come in are black."""

    op: Literal["rotate"] = "rotate"
    degrees: float = Field(ge=0, le=180)

    def apply(
        self, picture: Pixels, preprocessing: Preprocessing, generator: np.random.Generator
    ) -> Pixels:
        angle = generator.uniform(-self.degrees, self.degrees)
        return np.asarray(_image(picture).rotate(angle))


class Flip(_Step):
    """Mirror left-right, upside-down, or both: each with its own probability."""

    op: Literal["flip"] = "flip"
    horizontal: Share = 0.5
    vertical: Share = 0.0

    def apply(
        self, picture: Pixels, preprocessing: Preprocessing, generator: np.random.Generator
    ) -> Pixels:
        if generator.random() < self.horizontal:
            picture = picture[:, ::-1]
        return picture[::-1] if generator.random() < self.vertical else picture


class ColourJitter(_Step):
    """Change brightness, contrast, saturation and hue, in random order.

    Attributes:
        brightness, contrast, saturation: how far the factor may be from 1, at least 0.
        hue: how far it may turn, as a share of the colour circle.
    """

    op: Literal["colour_jitter"] = "colour_jitter"
    brightness: float = Field(0.0, ge=0, le=10)
    contrast: float = Field(0.0, ge=0, le=10)
    saturation: float = Field(0.0, ge=0, le=10)
    hue: float = Field(0.0, ge=0, le=0.5)

    def apply(
        self, picture: Pixels, preprocessing: Preprocessing, generator: np.random.Generator
    ) -> Pixels:
        from PIL import ImageEnhance

        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        ranges = (self.brightness, self.contrast, self.saturation)
        factors = [generator.uniform(max(0.0, 1 - most), 1 + most) for most in ranges]
        turn = generator.uniform(-self.hue, self.hue)
        image = _image(picture)
        for which in generator.permutation(4):
            if which < 3 and ranges[which]:
                image = enhancers[which](image).enhance(factors[which])
            elif which == 3 and self.hue:
                image = _turn_hue(image, turn)
        return np.asarray(image)


class Greyscale(_Step):
    """Take the colour from a share of the views (ITU-R 601-2 luma)."""

    op: Literal["greyscale"] = "greyscale"
    share: Share

    def apply(
        self, picture: Pixels, preprocessing: Preprocessing, generator: np.random.Generator
    ) -> Pixels:
        if generator.random() >= self.share:
            return picture
        return np.repeat(np.asarray(_image(picture).convert("L"))[..., None], 3, axis=2)


Step: TypeAlias = Annotated[
    Resize | CentreCrop | RandomCrop | RandomResizedCrop | Rotate | Flip | ColourJitter | Greyscale,
    Field(discriminator="op"),
]
Augmentation: TypeAlias = tuple[Step, ...]

DEFAULT_AUGMENTATION: Augmentation = (RandomResizedCrop(), Flip())

_Sizing: TypeAlias = Resize | CentreCrop | RandomCrop | RandomResizedCrop


def augmented_size_px(augmentation: Augmentation, preprocessing: Preprocessing) -> int:
    """Return the side of the views: what the last step that sets a size makes it."""
    sizes = [step.size_px for step in augmentation if isinstance(step, _Sizing)]
    return (sizes[-1] if sizes else None) or preprocessing.size_px


def random_view(
    picture: Pixels,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    generator: np.random.Generator,
) -> Pixels:
    """Draw one (S', S', 3) uint8 view of a decoded (H, W, 3) picture.

    S' is `augmented_size_px`. Unless a resize or a random resized crop comes before any other
    crop, the picture is first fitted as in evaluation, and the steps apply to that.
    """
    if _scaling_step(augmentation) is None:
        picture = fit_pixels(picture, preprocessing)
    for step in augmentation:
        picture = step.apply(picture, preprocessing, generator)
    return np.ascontiguousarray(picture)


def read_views(
    path: str | Path,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    generators: Sequence[np.random.Generator],
) -> list[Pixels]:
    """Read one picture file and draw a view of it from each generator: (S', S', 3) uint8 each.

    The file is decoded once, a JPEG at the smallest scale that every view can be cut from.

    Raises:
        UnreadablePicture: the file cannot be opened, or is not a picture that can be read whole.
    """
    picture = decode(read_file(path), _shortest_needed_px(augmentation, preprocessing))
    return [random_view(picture, preprocessing, augmentation, one) for one in generators]


def view_generator(digest: bytes, view: int, seed: int = 0) -> np.random.Generator:
    """Return the generator of one view of one picture, the same in every thread and process.

    digest: hexadecimal, at least 15 digits, as in `Catalog.digests`. view, seed: not negative.
    """
    return np.random.default_rng([int(digest[:15], 16), view, seed])


def _scaling_step(augmentation: Augmentation) -> Resize | RandomResizedCrop | None:
    """Return the step that first sets a size, if it does so by scaling."""
    first = next((step for step in augmentation if isinstance(step, _Sizing)), None)
    return first if isinstance(first, Resize | RandomResizedCrop) else None


def _shortest_needed_px(augmentation: Augmentation, preprocessing: Preprocessing) -> int:
    """Say how long the short side must be at least, for nothing to be missed in the views."""
    step = _scaling_step(augmentation)
    if step is None:
        return shortest_needed_px(preprocessing)
    # The smallest part keeps sqrt(area) of a side, and must still fill the view.
    share = math.sqrt(step.area[0]) if isinstance(step, RandomResizedCrop) else 1.0
    return math.ceil(REDUCE_TO * (step.size_px or preprocessing.size_px) / share)


def _with_border(picture: Pixels, size_px: int) -> Pixels:
    """Add black around a picture, so that no side is below size_px."""
    missing = [max(0, size_px - side) for side in picture.shape[:2]]
    if not any(missing):
        return picture
    return np.pad(picture, [*((n // 2, n - n // 2) for n in missing), (0, 0)])


def _turn_hue(image: Image.Image, share: float) -> Image.Image:
    """Turn the hue by a share of the circle, cut off to 1/255 of it as torchvision does."""
    from PIL import Image as PillowImage

    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + int(share * 255)) % 256 for level in range(256)])
    return PillowImage.merge("HSV", (hue, saturation, value)).convert("RGB")


def _image(picture: Pixels) -> Image.Image:
    from PIL import Image as PillowImage

    return PillowImage.fromarray(picture)
