"""Where a library lies: a folder, a bucket of an S3-compatible store, or what else pyarrow reaches.

An S3 place is ``s3://BUCKET/PATH``, with ``?endpoint_override=URL&region=NAME`` behind it for a
store that is not Amazon's. What the address leaves out comes from ``AWS_ENDPOINT_URL_S3`` or
``AWS_ENDPOINT_URL``, and ``AWS_REGION`` or ``AWS_DEFAULT_REGION``; keys come from the environment,
``~/.aws`` or the machine's role, never from the address, which is shown and written down.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit

from pyarrow import fs

from stillhouse.search.core.addresses import keys_in, shown
from stillhouse.spaces.config.problems import ConfigError, Problem, first_line

CONNECT, ANSWER = 3.0, 30.0
"""Seconds for a connection to an object store, and without a byte from it, before a retry."""
ATTEMPTS = 8
"""Tries of a request that an object store did not answer or throttled, 1 to 20 seconds apart."""
ALOOF = 2
"""Tries when all that is asked is whether the place can be used."""
FULL = ("no space left", "quota exceeded", "file too large", "entitytoolarge", "errno 122")
"""What a place says that has no room left."""
_ENDPOINT = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGION = ("AWS_REGION", "AWS_DEFAULT_REGION")
_FIELDS = ("endpoint_override", "region", "scheme")
_OBJECT_STORES = ("s3", "gcs", "abfs")


def absolute(uri: str) -> str:
    """The address as it means the same on every machine: nothing left to the environment.

    Raises:
        ConfigError: an address with keys in it; an S3 address without a bucket or with unknown
            settings; a bucket whose region cannot be found out.
    """
    if "://" not in uri:
        return str(Path(uri).expanduser().absolute())
    if said := keys_in(uri):
        _refuse(said)
    if not uri.startswith("s3://"):
        return uri
    told = urlsplit(uri)
    if not told.netloc:
        _refuse(f"{uri} names no bucket: s3://BUCKET/PATH")
    given = dict(parse_qsl(told.query, keep_blank_values=True))
    unknown = sorted(given.keys() - set(_FIELDS))
    if unknown:
        _refuse(f"{shown(uri)} has the setting {unknown[0]!r}; allowed are {', '.join(_FIELDS)}")
    settings = _settings(told.netloc, given)
    path = told.path.rstrip("/")
    return f"s3://{told.netloc}{path}?{urlencode(settings, safe=':/')}"


def open_place(uri: str, attempts: int = ATTEMPTS) -> tuple[fs.FileSystem, str]:
    """The file system of an :func:`absolute` address, and the path in it.

    Raises:
        OSError, ValueError: it cannot be had.
    """
    if not uri.startswith("s3://"):
        system, root = fs.FileSystem.from_uri(uri)
        return system, root
    told = urlsplit(uri)
    system = fs.S3FileSystem(
        **dict(parse_qsl(told.query)),
        connect_timeout=CONNECT,
        request_timeout=ANSWER if attempts > ALOOF else CONNECT,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        allow_delayed_open=True,  # a small file is one request, and not three
    )
    return system, f"{told.netloc}{told.path}"


def in_one_step(system: fs.FileSystem) -> bool:
    """Whether a file appears there whole, when its stream is closed, and folders need no making."""
    return system.type_name in _OBJECT_STORES


def remedy(uri: str, reason: str) -> str:
    """What to do about an error of an object store's, or of a disk's."""
    if any(said in reason.lower() for said in FULL):
        command = f"stillhouse library collect --library {shown(uri)}"
        return f"make room there (`{command}` tells what nobody needs)"
    if not uri.startswith("s3://"):
        return "set `library:` to a writable place"
    if "NO_SUCH_BUCKET" in reason or ("Bucket" in reason and "not found" in reason):
        return "make the bucket, or name another in `library:`"
    if "NETWORK_CONNECTION" in reason or "timed out" in reason.lower():
        return f"does the store answer? {', '.join(_ENDPOINT)} or ?endpoint_override= name it"
    if any(said in reason for said in ("ACCESS_DENIED", "INVALID_ACCESS", "SIGNATURE", "TOKEN")):
        return (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role that may "
            "read, write, list and delete there"
        )
    return "set `library:` to a writable place"


def _settings(bucket: str, given: dict[str, str]) -> dict[str, str]:
    """Endpoint, scheme and region: as given, else from the environment."""
    settings: dict[str, str] = {}
    endpoint = given.get("endpoint_override") or _environment(_ENDPOINT)
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        settings["endpoint_override"] = host.rstrip("/")
        settings["scheme"] = given.get("scheme") or scheme or "https"
    region = given.get("region") or _environment(_REGION)
    settings["region"] = region or ("us-east-1" if endpoint else _region_of(bucket))
    return settings


def _region_of(bucket: str) -> str:
    try:
        return str(fs.resolve_s3_region(bucket))
    except OSError as error:
        reason = first_line(error)
        _refuse(f"s3://{bucket}: {reason}; set AWS_REGION, or AWS_ENDPOINT_URL_S3 if not Amazon's")


def _environment(names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := os.environ.get(name))), "")


def _refuse(message: str) -> NoReturn:
    raise ConfigError([Problem("library", message)])
