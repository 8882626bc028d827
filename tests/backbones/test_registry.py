"""The table of backbones, and finding one by what people type."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.backbones.registry import BACKBONES, DEFAULT_BACKBONE, find_backbone
from tellapart.errors import UnknownBackbone


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0"),
        ("efficientnet-lite1", "tf_efficientnet_lite1"),
        ("lite2", "tf_efficientnet_lite2"),
        ("ResNet-18", "resnet18"),
        ("resnext101-32x8d", "resnext101_32x8d"),
        ("squeezenet1.1", "squeezenet1_1"),
        ("timm/resnet50.tv_in1k", "resnet50"),
        ("b0", "efficientnet_b0"),
    ],
)
def test_names_are_understood_however_they_are_spelt(typed: str, name: str) -> None:
    """Case, dashes, dots, the prefix tf_ and the hub's names all lead to the same backbone."""
    assert find_backbone(typed).name == name


@given(st.sampled_from(BACKBONES), st.randoms(use_true_random=False))
def test_any_mix_of_case_and_dashes_finds_every_backbone(backbone, random) -> None:  # type: ignore[no-untyped-def]
    """Every backbone is found by its name in any case, with '-' for any '_'."""
    typed = "".join(
        random.choice((letter.upper(), letter.lower(), "-" if letter == "_" else letter))
        for letter in backbone.name
    )
    assert find_backbone(typed) is backbone


def test_an_unknown_name_suggests_the_nearest() -> None:
    """A slip of the keyboard gets the name that was meant, and the command that lists all."""
    with pytest.raises(UnknownBackbone) as error:
        find_backbone("resnte18")
    assert str(error.value) == (
        'There is no backbone "resnte18". Did you mean "resnet18"? Nothing was loaded; '
        "`tellapart backbones` lists those that can be given to --backbone."
    )


def test_a_name_like_none_gets_no_suggestion() -> None:
    """Where nothing is near, nothing is suggested."""
    with pytest.raises(UnknownBackbone) as error:
        find_backbone("qqqq")
    assert str(error.value) == (
        'There is no backbone "qqqq". Nothing was loaded; '
        "`tellapart backbones` lists those that can be given to --backbone."
    )


def test_other_weights_of_a_known_architecture_are_not_taken_for_ours() -> None:
    """A name with another tag means other weights, so it is unknown."""
    with pytest.raises(UnknownBackbone, match='Did you mean "resnet18"'):
        find_backbone("resnet18.a1_in1k")


def test_names_are_unique_and_the_default_is_packaged() -> None:
    """No two backbones share a name, and the default needs no network."""
    names = [backbone.name for backbone in BACKBONES]
    assert len(set(names)) == len(names)
    assert find_backbone(DEFAULT_BACKBONE).package is not None


def test_packaged_backbones_are_pinned() -> None:
    """What comes with the install has a whole checksum, as in the file's name, and known logits."""
    packaged = [backbone for backbone in BACKBONES if backbone.package]
    assert len(packaged) == 3
    for backbone in packaged:
        assert re.fullmatch("[0-9a-f]{64}", str(backbone.sha256))
        variant = backbone.name.removeprefix("tf_efficientnet_")
        digits = str(backbone.sha256)[:8]
        assert backbone.weights_file == f"efficientnet-{variant}-{digits}.pth"
        assert len(backbone.golden or ()) == 8


def test_every_backbone_can_come_from_somewhere() -> None:
    """Each names a hub repository or a file, or others that do, and one of two licences."""
    names = {backbone.name for backbone in BACKBONES if backbone.hub_id or backbone.weights_file}
    for backbone in BACKBONES:
        assert backbone.name in names or names.issuperset(backbone.joined or [None])
        assert backbone.licence in {"Apache-2.0", "BSD-3-Clause"}


def test_every_backbone_says_where_it_can_be_cut() -> None:
    """Each has stages in order, none twice, and its tail starts at one of the last of them."""
    for backbone in BACKBONES:
        assert len(backbone.cuts) > 3
        assert len(set(backbone.cuts)) == len(backbone.cuts)
        assert backbone.tail in backbone.cuts[-4:]
        assert 1 <= backbone.min_size_px <= 75
