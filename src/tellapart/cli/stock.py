"""Commands that say what there is: backbones, recipes, runs, and what is kept between runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tellapart.cli.options import Debug, Json, Settings, chosen_settings, print_json, say, table

backbones = typer.Typer(name="backbones", invoke_without_command=True, rich_markup_mode=None)
recipes = typer.Typer(name="recipes", invoke_without_command=True, rich_markup_mode=None)


@backbones.callback()
def list_backbones(context: typer.Context, as_json: Json = False, debug: Debug = False) -> None:
    """List the networks that can be used, and which of them work offline right now."""
    if context.invoked_subcommand:
        return
    from tellapart.backbones.registry import BACKBONES, DEFAULT_BACKBONE
    from tellapart.backbones.weights import available_offline

    rows = [
        {
            "name": backbone.name,
            "default": backbone.name == DEFAULT_BACKBONE,
            "offline": available_offline(backbone),
            "licence": backbone.licence,
            "params_m": backbone.params_m,
            "size_px": backbone.preprocessing.size_px,
            "speed": backbone.speed,
        }
        for backbone in BACKBONES
    ]
    if as_json:
        print_json({"backbones": rows})
        return
    table(
        ["name", "offline", "licence", "weights", "input", "speed"],
        [
            [
                f"{row['name']} (default)" if row["default"] else str(row["name"]),
                f"yes: {row['offline']}" if row["offline"] else "no",
                str(row["licence"]),
                f"{row['params_m']} M",
                f"{row['size_px']} px",
                str(row["speed"]),
            ]
            for row in rows
        ],
    )


@backbones.command("show")
def show_backbone(
    name: Annotated[str, typer.Argument(help="A backbone that `backbones` lists.")],
    data: Annotated[
        Path | None, typer.Argument(help="Pictures: shows the head before and after, too.")
    ] = None,
    cut: Annotated[
        str | None, typer.Option(help="Where a tail starts; by default the backbone's usual one.")
    ] = None,
    size_px: Annotated[int | None, typer.Option(help="Side of the input.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print a network's parts, where it can be cut, and what each cut would keep."""
    from tellapart.pipeline import show_structure

    shown = show_structure(name, data, cut=cut, size_px=size_px)
    if as_json:
        print_json(shown.as_dict())
        return
    say(shown.text())


@recipes.callback()
def list_recipes(context: typer.Context, as_json: Json = False, debug: Debug = False) -> None:
    """List the recipes that come with tellapart."""
    if context.invoked_subcommand:
        return
    from tellapart.training.recipe import builtin_recipes

    found = builtin_recipes()
    if as_json:
        print_json([{"name": recipe.name} | recipe.facts() for recipe in found])
        return
    for recipe in found:
        say(f"{recipe.name:15} {recipe.about}")


@recipes.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(help="One that `recipes` lists, or a .toml file.")],
    settings: Settings = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print a recipe as TOML, to save, change and give to `train --recipe FILE`."""
    from tellapart.training.recipe import load_recipe

    recipe = load_recipe(name, chosen_settings(settings, {}))
    if as_json:
        print_json(recipe.facts())
        return
    say(recipe.to_toml(), end="")


def runs(as_json: Json = False, debug: Debug = False) -> None:
    """List what was trained on what, with which score, the latest first."""
    from tellapart.training.runs import list_runs

    found = list_runs()
    if as_json:
        print_json(
            [
                {key: value for key, value in vars(run).items() if key != "folder"}
                | {"id": run.id, "folder": str(run.folder)}
                for run in found
            ]
        )
        return
    if not found:
        say("Nothing was trained yet. Start with: tellapart train FOLDER")
        return
    table(
        ["started (UTC)", "name", "recipe", "state", "accuracy", "took", "pictures"],
        [
            [
                run.started[:16].replace("T", " "),
                run.name,
                str(run.recipe.get("name", "")),
                run.state,
                _accuracy(run.accuracy) if run.accuracy else "",
                "" if run.seconds is None else f"{run.seconds:.0f} s",
                run.data,
            ]
            for run in found
        ],
    )


def _accuracy(reached: Mapping[str, Any]) -> str:
    folds = reached.get("folds")
    where = f"{folds['n']} folds" if folds else reached["split"]
    return f"{reached['value']:.4f} on {where}"


def cache(
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what was not used lately, down to --max-gb.")
    ] = False,
    max_gb: Annotated[float, typer.Option(min=0, help="How much --prune leaves.")] = 10.0,
    clear: Annotated[bool, typer.Option("--clear", help="Delete all of it.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what is kept between runs, and make room. Deleting only costs computing it again."""
    from tellapart.backbones import cache as kept
    from tellapart.files import cache_folder

    deleted = kept.prune(0.0 if clear else max_gb) if prune or clear else []
    items = kept.kept_items()
    if as_json:
        print_json(
            {
                "folder": str(cache_folder()),
                "size_mb": round(sum(item.size_mb for item in items), 3),
                "deleted": [str(item.path) for item in deleted],
                "items": [
                    {"path": str(item.path), "kind": item.kind, "about": item.about}
                    | {"size_mb": round(item.size_mb, 3)}
                    for item in items
                ],
            }
        )
        return
    if deleted:
        say(f"Deleted {len(deleted)} entries, {sum(i.size_mb for i in deleted):.0f} MB.")
    say(f"{cache_folder()}: {sum(item.size_mb for item in items):.0f} MB")
    if items:
        table(
            ["kind", "MB", "what"],
            [[item.kind, f"{item.size_mb:.1f}", item.about] for item in items],
        )
