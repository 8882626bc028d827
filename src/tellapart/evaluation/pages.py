"""How every page is made from its template: escaped, and with all that it shows inside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tellapart.data.thumbnails import data_uri
from tellapart.hiding import without_secrets

if TYPE_CHECKING:
    from jinja2 import Template


def page_template(name: str, **filters: Callable[..., Any]) -> Template:
    """Open a template of this folder, with these filters and `data_uri`."""
    # Costs time to import, and most commands show no page.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tellapart", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_without_secrets,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": data_uri, **filters}
    return environment.get_template(name)


def _without_secrets(value: Any) -> Any:
    """Hide what is secret in addresses, in what is escaped later and in what is markup already."""
    if not isinstance(value, str):
        return value
    said = without_secrets(value)
    return value if said == value else type(value)(said)
