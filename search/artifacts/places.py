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

from stillhouse.search.core.addresses import embedded_keys_message, for_display
from stillhouse.spaces.config.problems import ConfigError, Problem, first_line

CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S = 3.0, 30.0
"""Seconds for a connection to an object store, and without a byte from it, before a retry."""
MAX_ATTEMPTS = 8
"""Tries of a request that an object store did not answer or throttled, 1 to 20 seconds apart."""
FAIL_FAST_ATTEMPTS = 2
"""Tries when all that is asked is whether the place can be used."""
STORAGE_FULL_MESSAGES = (
    "no space left",
    "quota exceeded",
    "file too large",
    "entitytoolarge",
    "errno 122",
)
"""What a place says that has no room left."""
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
_ADDRESS_SETTINGS = ("endpoint_override", "region", "scheme")
_OBJECT_STORES = ("s3", "gcs", "abfs")


def absolute_address(address: str) -> str:
    """The address as it means the same on every machine: nothing left to the environment.

    Raises:
        ConfigError: an address with keys in it; an S3 address without a bucket or with unknown
            settings; a bucket whose region cannot be found out.
    """
    if "://" not in address:
        return str(Path(address).expanduser().absolute())
    if fault := embedded_keys_message(address):
        _raise_config_error(fault)
    if not address.startswith("s3://"):
        return address
    split_address = urlsplit(address)
    if not split_address.netloc:
        _raise_config_error(f"{address} names no bucket: s3://BUCKET/PATH")
    given_settings = dict(parse_qsl(split_address.query, keep_blank_values=True))
    unknown_settings = sorted(given_settings.keys() - set(_ADDRESS_SETTINGS))
    if unknown_settings:
        _raise_config_error(
            f"{for_display(address)} has the setting {unknown_settings[0]!r}; allowed are {', '.join(_ADDRESS_SETTINGS)}"
        )
    settings = _s3_settings(split_address.netloc, given_settings)
    path = split_address.path.rstrip("/")
    return f"s3://{split_address.netloc}{path}?{urlencode(settings, safe=':/')}"


def open_filesystem(address: str, attempts: int = MAX_ATTEMPTS) -> tuple[fs.FileSystem, str]:
    """The file system of an :func:`absolute_address` address, and the path in it.

    Raises:
        OSError, ValueError: it cannot be had.
    """
    if not address.startswith("s3://"):
        filesystem, root = fs.FileSystem.from_uri(address)
        return filesystem, root
    split_address = urlsplit(address)
    filesystem = fs.S3FileSystem(
        **dict(parse_qsl(split_address.query)),
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=REQUEST_TIMEOUT_S if attempts > FAIL_FAST_ATTEMPTS else CONNECT_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        allow_delayed_open=True,  # a small file is one request, and not three
    )
    return filesystem, f"{split_address.netloc}{split_address.path}"


def is_object_store(filesystem: fs.FileSystem) -> bool:
    """Whether a file appears there whole, when its stream is closed, and folders need no making."""
    return filesystem.type_name in _OBJECT_STORES


def storage_remedy(address: str, reason: str) -> str:
    """What to do about an error of an object store's, or of a disk's."""
    if any(phrase in reason.lower() for phrase in STORAGE_FULL_MESSAGES):
        command = f"stillhouse library collect --library {for_display(address)}"
        return f"make room there (`{command}` tells what nobody needs)"
    if not address.startswith("s3://"):
        return "set `library:` to a writable place"
    if "NO_SUCH_BUCKET" in reason or ("Bucket" in reason and "not found" in reason):
        return "make the bucket, or name another in `library:`"
    if "NETWORK_CONNECTION" in reason or "timed out" in reason.lower():
        return f"does the store answer? {', '.join(_ENDPOINT_VARIABLES)} or ?endpoint_override= name it"
    if any(
        phrase in reason for phrase in ("ACCESS_DENIED", "INVALID_ACCESS", "SIGNATURE", "TOKEN")
    ):
        return (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role that may "
            "read, write, list and delete there"
        )
    return "set `library:` to a writable place"


def _s3_settings(bucket: str, given_settings: dict[str, str]) -> dict[str, str]:
    """Endpoint, scheme and region: as given, else from the environment."""
    settings: dict[str, str] = {}
    endpoint = given_settings.get("endpoint_override") or _first_set_variable(_ENDPOINT_VARIABLES)
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        settings["endpoint_override"] = host.rstrip("/")
        settings["scheme"] = given_settings.get("scheme") or scheme or "https"
    region = given_settings.get("region") or _first_set_variable(_REGION_VARIABLES)
    settings["region"] = region or ("us-east-1" if endpoint else _bucket_region(bucket))
    return settings


def _bucket_region(bucket: str) -> str:
    try:
        return str(fs.resolve_s3_region(bucket))
    except OSError as error:
        reason = first_line(error)
        _raise_config_error(
            f"s3://{bucket}: {reason}; set AWS_REGION, or AWS_ENDPOINT_URL_S3 if not Amazon's"
        )


def _first_set_variable(names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := os.environ.get(name))), "")


def _raise_config_error(message: str) -> NoReturn:
    raise ConfigError([Problem("library", message)])
