"""A PostgreSQL server for tests."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import psycopg

from tests.support.ports import free_port

PASSWORD = "geheim/w0rt@x?y#z%"
"""The password of the database user, with characters that are special in an address."""


class Postgres:
    """A PostgreSQL server on a free port; it requires a password."""

    def __init__(self, programs):
        self.programs = programs
        self.folder = tempfile.mkdtemp(prefix="stillhouse-postgres-")
        self.port = free_port()
        secret = f"{self.folder}/secret"
        with open(secret, "w", encoding="utf-8") as file:
            file.write(PASSWORD)
        if os.getuid() == 0:  # PostgreSQL refuses to be run by root
            owner = pwd.getpwnam("postgres")
            for path in (self.folder, secret):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        options = ("--username", "stillhouse", "--pwfile", secret, "--auth", "scram-sha-256")
        self._do("initdb", "-D", f"{self.folder}/data", "--no-sync", "-E", "UTF8", *options)

    def start(self):
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = f"{self.folder}/log"
        self._do("pg_ctl", "start", "-w", "-D", f"{self.folder}/data", "-l", log, "-o", options)

    def stop(self, how="fast"):
        self._do("pg_ctl", "stop", "-w", "-D", f"{self.folder}/data", "-m", how)

    def restart(self, away=2.0):
        """Break every connection, and start again after some seconds."""
        self.stop("immediate")
        time.sleep(away)
        self.start()

    def remove(self):
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop("immediate")
        shutil.rmtree(self.folder)

    def connect(self, database="postgres"):
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="stillhouse",
            password=PASSWORD,
            dbname=database,
            autocommit=True,
        )

    def database(self):
        """Create a database; returns its address without the password."""
        name = f"db_{uuid.uuid4().hex[:12]}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://stillhouse@127.0.0.1:{self.port}/{name}"

    def _do(self, program, *words):
        command = [os.path.join(self.programs, program), *words]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", timeout=120)


def postgres_programs():
    """The folder of initdb and postgres; empty if PostgreSQL is not installed."""
    program = shutil.which("initdb")
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    return os.path.dirname(program or next(iter(map(str, places)), ""))
