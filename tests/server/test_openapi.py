"""The API against its own description, with requests that nobody would think of."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS

from tellapart.server.settings import Limits

CHECKED = ("not_a_server_error", "status_code_conformance", "response_schema_conformance")


@pytest.mark.slow
def test_nothing_that_fits_the_description_breaks_the_server(serving: Any) -> None:
    """No generated request gives an error of the server or an answer that is not described."""
    with serving(limits=Limits(rate_per_min=0)) as client:
        url = str(client.base_url)
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        checks = CHECKS.get_by_names(list(CHECKED))
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) == 31

        @settings(
            max_examples=80,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=st.one_of([operation.as_strategy() for operation in operations]))
        def asked(case: Any) -> None:
            case.call_and_validate(base_url=url, checks=checks)

        asked()
