"""Commands that hand a classifier on: for other programs, in 8 bits, and in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tellapart.cli.options import (
    Data,
    Debug,
    Json,
    Model,
    Quiet,
    Root,
    Verbose,
    Where,
    data_source,
    open_progress,
    print_json,
    say,
)

if TYPE_CHECKING:
    from tellapart.pipeline.exporting import Difference

TO = ("onnx", "openvino", "torch", "web", "state-dict")


def _one_of(option: str, known: tuple[str, ...], value: str) -> str:
    if value not in known:
        raise typer.BadParameter(f"{option} {value}: expected {', '.join(known)}.")
    return value


def export(
    model: Model,
    to: Annotated[str, typer.Option(help=f"{', '.join(TO)}.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A new folder; default MODEL-TO.")
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="Pictures to check it on; default: those it was trained on."),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="f32, or int8: the 8-bit graph that `quantize` put in.")
    ] = "f32",
    ort_web: Annotated[
        Path | None,
        typer.Option(
            help="For web: npm's onnxruntime-web, unpacked or as .tgz; default ./node_modules."
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write a classifier for other programs, with an example, checked against the bundle."""
    from typing import cast

    from tellapart.bundle.export import Precision, Target
    from tellapart.pipeline.exporting import export as write

    if ort_web is not None and to != "web":
        raise typer.BadParameter(f"--ort-web is for --to web; it was given with --to {to}.")
    exported = write(
        model,
        cast("Target", _one_of("--to", TO, to)),
        output,
        check=check,
        precision=cast("Precision", _one_of("--precision", ("f32", "int8"), precision)),
        web_runtime=ort_web,
        progress=open_progress(quiet, verbose),
    )
    if as_json:
        print_json(exported.as_dict())
        return
    seen = exported.agreement
    say(f"Wrote {exported.folder} ({exported.size_mb} MB): {', '.join(exported.files)}")
    say(f"Checked on {seen.n} pictures of {seen.folder}, run by {seen.runtime}.")
    _difference("on the same pixels", seen.same_pixels, seen.limits["same_pixels"])
    _difference("read as the example does", seen.from_files, seen.limits["from_files"])
    if seen.bits_16:
        _difference("the bundle, 16 against 32 bits", seen.bits_16)
    if seen.bits_8:
        _difference("the bundle, 8 against 32 bits", seen.bits_8)
    if exported.target == "web":
        say(f"Try it: python -m http.server -d {exported.folder}")


def _difference(what: str, seen: Difference, limit: float | None = None) -> None:
    allowed = "" if limit is None else f" (at most {limit})"
    say(f"  {what:30} {seen.same_label:6.1%} same label, {seen.largest:.4f} apart{allowed}")


def quantize(
    model: Model,
    data: Data,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Another bundle; default: MODEL itself.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    root: Root = None,
    where: Where = None,
) -> None:
    """Put an 8-bit graph into a classifier, and measure what that costs and gains."""
    from tellapart.pipeline.exporting import quantize as put

    facts = put(model, data_source(data, root, where), output, open_progress(quiet, verbose))
    if as_json:
        print_json(facts.model_dump())
        return
    measured = f"{facts.n} {facts.split or ''} pictures".replace("  ", " ")
    say(f"{output or model} carries an 8-bit graph, from {facts.n_calibration} pictures.")
    say(f"Against 32 bits on {measured}: {facts.agreement:.1%} get the same class;")
    say(f"probabilities differ by up to {facts.largest_difference:.3f}.")
    for name, speed in facts.pictures_per_s.items():
        right = f", {facts.accuracy[name]:.4f} right" if facts.accuracy else ""
        say(f"  {name:5} {speed:7.1f} pictures/s, the network alone{right}")
    say("It is used where it is asked for: --precision int8 of `predict` and `export`.")


def info(
    model: Model,
    card: Annotated[
        bool, typer.Option("--card", help="Print a model card in Markdown instead.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a classifier is, on one screen; or write its model card."""
    from tellapart.bundle import card as words
    from tellapart.bundle.bundle import open_bundle

    if card and as_json:
        raise typer.BadParameter("--card and --json exclude each other.")
    bundle = open_bundle(model)
    if as_json:
        print_json(words.facts(bundle))
    else:
        said = words.card(bundle) if card else words.screen(bundle)
        say(said, end="" if card else "\n")
