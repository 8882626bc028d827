"""Commands that judge classifiers: one against another, and how sure an answer must be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    quoted,
    say,
    table,
)

if TYPE_CHECKING:
    from tellapart.evaluation.decision import Rules
    from tellapart.pipeline import Comparison

SHOWN = 20


def compare(
    first: Annotated[Path, typer.Argument(help="A classifier: a .tellapart file.")],
    second: Annotated[Path, typer.Argument(help="The one to hold against it.")],
    data: Data,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
    root: Root = None,
    where: Where = None,
) -> None:
    """Compare two classifiers on the same labelled pictures: is one of them really better?"""
    from tellapart.inference.classifier import Classifier
    from tellapart.pipeline import compare as hold

    loaded = Classifier.load(first), Classifier.load(second)
    found = hold(*loaded, data_source(data, root, where), open_progress(quiet, verbose))
    print_json(found.as_dict()) if as_json else _tell(found, first, second)


def _tell(found: Comparison, first: Path, second: Path) -> None:
    """Say how two classifiers differ."""
    from tellapart.stores import shown

    if found.split:
        say(f"Compared on the {found.split} folder.")
    if found.left_out:
        say(
            f"Not compared: {found.n_left_out} pictures of classes that not both know: "
            f"{', '.join(found.left_out)}."
        )
    if found.n_unreadable:
        say(f"Set aside: {found.n_unreadable} files that are no readable pictures.")
    apart = found.difference
    say(f"Pictures    {found.n}")
    for name, one in ((first, found.first), (second, found.second)):
        say(f"Accuracy    {one.value:.4f}  ({one.low:.4f} to {one.high:.4f})  {shown(name)}")
    say(f"Difference  {apart.value:+.4f}  ({apart.low:+.4f} to {apart.high:+.4f})")
    say(
        f"Only the first has {apart.only_first} right, only the second {apart.only_second}; "
        f"p = {apart.p_value:.2g}."
    )
    say(found.verdict())
    changed = [row for row in found.per_class if row.first != row.second]
    if changed:
        say("\nRecall by class, the largest change first")
        numbers = [(row.first, row.second) for row in changed]
        table(
            ["class", "pictures", "first", "second", "change"],
            [
                [row.name, str(row.n), f"{one:.3f}", f"{other:.3f}", f"{other - one:+.3f}"]
                for row, (one, other) in zip(changed[:SHOWN], numbers[:SHOWN], strict=True)
            ],
        )
    if found.flips:
        say(f"\nPictures they call differently ({len(found.flips)})")
        table(
            ["", "is", "first", "second", "picture"],
            [
                [one.kind, one.actual, one.first, one.second, one.path]
                for one in found.flips[:SHOWN]
            ],
        )
    if max(len(changed), len(found.flips)) > SHOWN:
        say(f"The first {SHOWN} of each; --json lists all.")


def accept(
    model: Model,
    wanted: Annotated[
        float | None, typer.Argument(help="Accuracy wanted among the answered, such as 0.98.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write here instead of changing the file.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what each wanted accuracy costs in answers; with one, set it. Trains nothing."""
    from tellapart.bundle.accepting import set_accept, trade_off

    if wanted is not None and not 0 < wanted < 1:
        raise typer.BadParameter(f"{wanted:g}: expected a share between 0 and 1, such as 0.95.")
    if output is not None and wanted is None:
        raise typer.BadParameter("-o needs a wanted accuracy: there is nothing to write without.")
    rules, choices = trade_off(model) if wanted is None else (set_accept(model, wanted, output), ())
    if as_json:
        print_json({"model": str(output or model)} | _facts(rules, choices))
        return
    _tell_rules(rules, choices)
    if wanted is not None:
        say(f"Set in {quoted(output or model)}.")


def _facts(rules: Rules, choices: tuple[Rules, ...]) -> dict[str, Any]:
    def facts(one: Rules) -> dict[str, Any]:
        return {
            "accept": one.accept,
            "threshold": one.threshold,
            "promised": one.promised,
            "answered": one.answered_share,
        }

    return facts(rules) | {"n": rules.n, "choices": [facts(one) for one in choices]}


def _tell_rules(rules: Rules, choices: tuple[Rules, ...]) -> None:
    from tellapart.evaluation.decision import in_words

    say(in_words(rules))
    if choices:
        table(
            ["wanted", "promised", "from confidence", "answered"],
            [
                [
                    f"{one.accept:g}",
                    "yes" if one.promised else "no",
                    f"{one.threshold:.3f}",
                    "" if one.answered_share is None else f"{one.answered_share:.1%}",
                ]
                for one in choices
            ],
        )
