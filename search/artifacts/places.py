"""The address of a library: a folder, an S3-compatible store, or another file system of pyarrow.

An S3 address is ``s3://BUCKET/PATH``, followed by ``?endpoint_override=URL&region=NAME`` for a
store that is not Amazon's. Defaults come from ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``, and
from ``AWS_REGION`` or ``AWS_DEFAULT_REGION``. Keys come from the environment, ``~/.aws`` or the
machine's role. They never come from the address, because it is displayed and stored.
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
"""Seconds to connect to an object store, and seconds without data, before a retry."""
MAX_ATTEMPTS = 8
"""Attempts, 1 to 20 s apart, of a request that an object store throttles or does not answer."""
FAIL_FAST_ATTEMPTS = 2
"""Attempts when the request only checks whether the address can be used."""
STORAGE_FULL_MESSAGES = (
    "no space left",
    "quota exceeded",
    "file too large",
    "entitytoolarge",
    "errno 122",
)
"""Parts of the error messages of a storage that is full."""
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
_ADDRESS_SETTINGS = ("endpoint_override", "region", "scheme")
_OBJECT_STORES = ("s3", "gcs", "abfs")


def absolute_address(address: str) -> str:
    """The address with all defaults filled in, so that it means the same on every machine.

    Raises:
        ConfigError: the address contains keys, an S3 address has no bucket or unknown settings, or
            the region of a bucket is unknown.
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
            f"{for_display(address)} has the setting {unknown_settings[0]!r}; "
            f"allowed are {', '.join(_ADDRESS_SETTINGS)}"
        )
    settings = _s3_settings(split_address.netloc, given_settings)
    path = split_address.path.rstrip("/")
    return f"s3://{split_address.netloc}{path}?{urlencode(settings, safe=':/')}"


def open_filesystem(address: str, attempts: int = MAX_ATTEMPTS) -> tuple[fs.FileSystem, str]:
    """The file system of an absolute address, and the path in it.

    Raises:
        OSError, ValueError: the address cannot be opened.
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
    """Whether files appear complete when their stream closes, and folders exist implicitly."""
    return filesystem.type_name in _OBJECT_STORES


def storage_remedy(address: str, reason: str) -> str:
    """The remedy for an error of an object store or a disk."""
    if any(phrase in reason.lower() for phrase in STORAGE_FULL_MESSAGES):
        command = f"stillhouse library collect --library {for_display(address)}"
        return f"make room there (`{command}` tells what nobody needs)"
    if not address.startswith("s3://"):
        return "set `library:` to a writable place"
    if "NO_SUCH_BUCKET" in reason or ("Bucket" in reason and "not found" in reason):
        return "make the bucket, or name another in `library:`"
    if "NETWORK_CONNECTION" in reason or "timed out" in reason.lower():
        variables = ", ".join(_ENDPOINT_VARIABLES)
        return f"does the store answer? {variables} or ?endpoint_override= name it"
    if any(
        phrase in reason for phrase in ("ACCESS_DENIED", "INVALID_ACCESS", "SIGNATURE", "TOKEN")
    ):
        return (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role that may "
            "read, write, list and delete there"
        )
    return "set `library:` to a writable place"


def _s3_settings(bucket: str, given_settings: dict[str, str]) -> dict[str, str]:
    """Endpoint, scheme and region from the address, else from the environment."""
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
