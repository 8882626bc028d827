"""The notebook in docs/ runs, and shows what it says it shows."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[1] / "docs" / "python.ipynb"


def run_cell(source: str, space: dict[str, Any]) -> object:
    """Run a cell as a notebook does; return what its last line shows."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), space)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), space)


def test_the_notebook_runs(trained: Any) -> None:
    """Every cell, in order, in this process; `trained` has the network exported already."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    space: dict[str, Any] = {}
    shown: list[object] = []
    for cell in cells:
        if cell["cell_type"] == "code":
            shown.append(run_cell("".join(cell["source"]), space))
    assert space["model"].classes_.tolist() == [0, 1, 2]
    assert [one.label for one in space["answers"]] == ["1", "2", None]
    assert space["exported"].agreement.same_pixels.same_label == 1.0
    # What is stored beside a cell is of the same kind as what it shows now.
    stored = [cell["outputs"] for cell in cells if cell["cell_type"] == "code"]
    for value, outputs in zip(shown, stored, strict=True):
        kinds = {name for one in outputs for name in one.get("data", {})}
        assert ("text/html" in kinds) == hasattr(value, "_repr_html_")
        assert ("text/plain" in kinds) == (value is not None)
