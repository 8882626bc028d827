"""What goes wrong with a store, told apart and put into words."""

from __future__ import annotations

import os
import re
from contextlib import suppress

from tellapart.errors import StoreRefused, TellapartError
from tellapart.hiding import SECRET
from tellapart.stores.addresses import SCHEMES, shown

# What a failure is called, by the libraries, where credentials lack or are wrong.
_REFUSED = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
        "ProfileNotFound",
        "DefaultCredentialsError",
        "RefreshError",
        "ClientAuthenticationError",
    }
)


def behind(error: Exception) -> BaseException:
    """Return what is behind a file that is said to be missing: perhaps the line is only broken."""
    if not isinstance(error, FileNotFoundError):
        return error
    for one in _causes(error)[1:]:
        if isinstance(one, TellapartError):
            return one
        if type(one).__module__.startswith("aiohttp") and status_of(one) not in (404, 410):
            return one
    return error


def _causes(error: BaseException | None) -> list[BaseException]:
    # Not what was met before it: a file found missing, where a folder was then looked for.
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__
    return found


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error comes from, if it comes from one."""
    for one in _causes(error):
        answer = getattr(one, "response", None)
        if isinstance(answer, dict):
            status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            status = getattr(one, "status", None) or getattr(one, "status_code", None)
            status = status or getattr(one, "code", None)
        with suppress(TypeError, ValueError):
            if status and 100 <= int(status) < 600:
                return int(status)
    return None


def is_refusal(error: BaseException) -> bool:
    """Whether a store said that who asks may not, or nothing was found to ask it with."""
    named = any(type(one).__name__ in _REFUSED for one in _causes(error))
    return named or isinstance(error, PermissionError) or status_of(error) in (401, 403)


def is_passing(error: BaseException) -> bool:
    """Whether an error that is no OSError tells of a connection, as those of some libraries do."""
    modules = {type(one).__module__.partition(".")[0] for one in _causes(error)}
    talkers = {
        "aiohttp",
        "botocore",
        "aiobotocore",
        "azure",
        "google",
        "gcsfs",
        "fsspec",
        "asyncio",
    }
    return bool(modules & talkers)


def refused(address: str | os.PathLike[str], error: BaseException) -> StoreRefused:
    """Say that credentials lack or do not suffice, and where they are looked for."""
    scheme = os.fspath(address).partition(":")[0].lower()
    where = {
        "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (of an open bucket: "
        "FSSPEC_S3_ANON=true)",
        "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
        "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or _SAS_TOKEN",
        "parquet": "the login and the configuration of Hadoop (HADOOP_HOME, CLASSPATH)",
    }.get(SCHEMES.get(scheme, ""), "an address that anybody may read")
    return StoreRefused(
        f"{shown(address)} may not be used: {reason_of(error)}. Expected credentials that allow "
        f"it, where the store's own tools look for them: {where}. Nothing was read or written. Set "
        f"them, or check the address."
    )


def reason_of(error: BaseException) -> str:
    """Say in few words what went wrong, without what is secret."""
    # Behind it, Azure's errors hold the number of the question and the answer as XML.
    said = " ".join(str(error).partition("RequestId:")[0].split()) or type(error).__name__
    said = re.sub(r"\?[^\s'\"]*", "?…", said)
    for name, value in os.environ.items():
        if len(value) >= 8 and SECRET.search(name):
            said = said.replace(value, "…")
    return said[:300].rstrip(".")
