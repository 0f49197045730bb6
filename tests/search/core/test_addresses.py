"""Addresses are shown, kept and complained about without what is secret in them."""

import pytest

from stillhouse.search.artifacts.store import Library
from stillhouse.search.cli.options import parse_overrides
from stillhouse.search.core.addresses import (
    for_display,
    for_storage,
    has_secret,
    scrub,
    secret_parts,
)
from stillhouse.search.monitoring.mlflow.locations import resolve_uri
from stillhouse.spaces.config.problems import ConfigError

DATABASE = "postgresql+psycopg://me:p/a?s#s@w%40@host:5432/db?sslmode=require&password=geheim"


@pytest.mark.parametrize(
    ("uri", "for_people", "for_files"),
    [
        ("stillhouse-library", "stillhouse-library", "stillhouse-library"),
        ("/a folder/with#odd?names@x", "/a folder/with#odd?names@x", "/a folder/with#odd?names@x"),
        ("sqlite:////tmp/a@b/c.db", "sqlite:////tmp/a@b/c.db", "sqlite:////tmp/a@b/c.db"),
        ("s3://b/p@v1?region=x", "s3://b/p@v1", "s3://b/p@v1?region=x"),
        ("http://host:5000/x@y", "http://host:5000/x@y", "http://host:5000/x@y"),
        ("http://me:secret@host:5000", "http://host:5000", "http://host:5000"),
        ("https://secret@host/ml", "https://host/ml", "https://host/ml"),
        ("https://host/ml?token=secret", "https://host/ml", "https://host/ml"),
        (
            DATABASE,
            "postgresql+psycopg://host:5432/db",
            "postgresql+psycopg://me@host:5432/db?sslmode=require",
        ),
        (
            "postgresql+psycopg://me@/db?host=/run/pg",
            "postgresql+psycopg:///db",
            "postgresql+psycopg://me@/db?host=/run/pg",
        ),
        (
            "postgresql+psycopg://me@h/db?sslkey=/k&passfile=/p&sslpassword=secret",
            "postgresql+psycopg://h/db",
            "postgresql+psycopg://me@h/db?sslkey=/k&passfile=/p",
        ),
    ],
)
def test_shown_and_kept(uri, for_people, for_files):
    assert for_display(uri) == for_people
    assert for_storage(uri) == for_files
    assert for_storage(for_storage(uri)) == for_storage(uri)
    assert not has_secret(for_storage(uri))
    assert has_secret(uri) == (for_storage(uri) != uri)


def test_secrets_are_known_as_they_stand_and_as_they_are_meant():
    assert secret_parts(DATABASE) == {"p/a?s#s@w%40", "p/a?s#s@w@", "geheim"}


def test_a_text_is_hushed_of_known_secrets_and_of_whatever_address_it_holds():
    said = scrub(f"no {DATABASE} for 'p/a?s#s@w@', nor http://a:b@c:1/x, nor geheim", DATABASE)
    assert said == (
        "no postgresql+psycopg://me@host:5432/db?sslmode=require for '***', "
        "nor http://c:1/x, nor ***"
    )
    assert scrub("see https://host:5000/page for more") == "see https://host:5000/page for more"


# Where they are complained about


def refusal(call):
    with pytest.raises(ConfigError) as caught:
        call()
    said = str(caught.value)
    assert "secret" not in said
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ("mysql://me:secret@host/db", "study: found mysql://; allowed are postgresql+psycopg://"),
        ("http://me:secret@host", "study: found http://; allowed are postgresql+psycopg://"),
        ("studies.db", "study: found no address; allowed are"),
        ("sqlite:///studies.db", "study: a SQLite file needs its whole path; allowed are"),
        ("sqlite:///:memory:", "study: a SQLite file needs its whole path; allowed are"),
        ("sqlite://", "study: a SQLite file needs its whole path; allowed are"),
    ],
)
def test_a_study_of_another_kind_is_refused_when_the_file_is_read(load, study, said):
    assert said in refusal(lambda: load(study=study))


@pytest.mark.parametrize(
    ("library", "said"),
    [
        ("s3://me:secret@b/p", "holds keys: put them into AWS_ACCESS_KEY_ID"),
        ("abfss://account:secret@b.blob.core.windows.net/p", "put them into the environment"),
        ("abfs://b/p?sas_token=secret", "abfs://b/p holds keys: put them into the environment"),
    ],
)
def test_a_library_never_holds_keys(load, library, said):
    assert said in refusal(lambda: load(library=library))
    assert said in refusal(lambda: Library(library))


@pytest.mark.parametrize(
    "uri", ["redis://me:secret@host", "file://me:secret@host/x", "ftp://me:secret@h"]
)
def test_a_tracking_place_that_is_none(uri, tmp_path):
    refusal(lambda: resolve_uri(uri, tmp_path))


def test_a_change_that_is_none(load):
    refusal(lambda: parse_overrides(["postgresql://me:secret@host/db"]))
    refusal(lambda: parse_overrides(["tracking=[http://me:secret@host"]))
    refusal(lambda: load({"tracking": {"uri": "http://me:secret@host"}}))


def test_the_file_of_a_run_keeps_no_password_and_no_key_changes(load):
    tracking, study = "http://me:secret@host:5000", "postgresql+psycopg://me:secret@host/db"
    experiment = load(tracking=tracking, study=study)
    assert (experiment.tracking, experiment.study) == (tracking, study)
    told = experiment.plain()
    assert told["tracking"] == "http://host:5000"
    assert told["study"] == "postgresql+psycopg://me@host/db"
    assert experiment.stage_graph().keys_by_label == load().stage_graph().keys_by_label
    assert "secret" not in str(experiment.fixed_configuration({}, "best"))
