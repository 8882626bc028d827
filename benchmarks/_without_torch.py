"""Run a tellapart command in a process where nothing of the extra `train` can be imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

HIDDEN = frozenset(
    {"torch", "torchvision", "timm", "lightning_fabric", "huggingface_hub", "matplotlib"}
)


class _Without:
    """A finder of modules that does not find the hidden ones.

    None in `sys.modules` would stop imports too, but libraries look there to see whether torch
    is loaded, and then import it.
    """

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] in HIDDEN:
            return None
        found: ModuleSpec | None = self._finder.find_spec(name, path, target)
        return found


if __name__ == "__main__" and sys.argv[1:]:
    sys.meta_path[:] = [_Without(finder) for finder in sys.meta_path]
    from tellapart.cli.main import main

    main()
