"""What is sent to the PostgreSQL protocol that is not it, or too much, or too slowly."""

from __future__ import annotations

import os
import random
import select
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flordb.serve.errors import ServeError
from flordb.serve.token import token_file, token_of
from flordb.store.project import Project
from tests.conftest import Sandbox
from tests.serve.support import Served, connected, served
from tests.support import copied

pytestmark = pytest.mark.slow

START = struct.pack("!ii", 32, 196608) + b"user\0flor\0database\0x\0\0"
START = struct.pack("!i", len(START)) + START[4:]


@pytest.fixture(scope="module")
def impatient(recorded: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that waits for a second, and for messages of 100 kB at most."""
    place = copied(recorded, tmp_path_factory.mktemp("impatient"))
    limits = {"FLORDB_SERVE_PATIENCE_SECONDS": "1", "FLORDB_SERVE_MAX_MESSAGE_BYTES": "100000"}
    with served(place, FLORDB_SERVE_CONNECTIONS="210", **limits) as server:
        yield server


def raw(server: Served) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=10)


def under(connection: psycopg.Connection[Any]) -> socket.socket:
    """The socket of a connection, past the library."""
    sock = socket.socket(fileno=os.dup(connection.pgconn.socket))
    sock.settimeout(10)
    return sock


def until_closed(sock: socket.socket) -> bytes:
    found = b""
    try:
        while part := sock.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


def test_nonsense_is_answered_with_an_error_and_a_hung_up_line(impatient: Served) -> None:
    generator = random.Random(7)
    texts = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        struct.pack("!ii", 8, 99999999),
        struct.pack("!ii", 4, 0),
        struct.pack("!i", -5) + b"xxxx",
        struct.pack("!ii", 2_000_000_000, 196608) + b"x" * 20_000,
        START + b"Q" + struct.pack("!i", 12) + b"SELECT 1",
        START + b"p" + struct.pack("!i", 3),
        START
        + b"p"
        + struct.pack("!i", 40)
        + b"SCRAM-SHA-1\0"
        + b"\0\0\0\5"
        + b"n,,r="
        + b"x" * 16,
        START
        + b"p"
        + struct.pack("!i", 26)
        + b"SCRAM-SHA-256\0"
        + b"\xff\xff\xff\xff"
        + b"\xff" * 4,
        START[:-1] + b"\xff\xfe\0",
        *(generator.randbytes(200) for _ in range(20)),
    ]
    for text in texts:
        with raw(impatient) as sock:
            sock.sendall(text)
            answer = until_closed(sock)
            assert b"C28" in answer or b"C08P01" in answer, text
    with connected(impatient) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_wrong_messages_of_a_logged_in_client_end_its_session_alone(impatient: Served) -> None:
    def message(kind: bytes, body: bytes = b"") -> bytes:
        return kind + struct.pack("!i", 4 + len(body)) + body

    wrong = [
        message(b"D"),
        message(b"B", b"\0\0\0\1"),
        message(b"B", b"\0\0" + struct.pack("!hhi", 0, 1, 1000) + b"xx"),
        message(b"Q", b"no zero byte"),
        message(b"Q", b"\xff\xfe\0"),
        message(b"P", b"\0SELECT 1\0" + struct.pack("!h", 30000)),
        b"E" + struct.pack("!i", 2),
        b"Q" + struct.pack("!i", -1),
        message(b"?"),
        message(b"p", b"x"),
    ]
    for text in wrong:
        with connected(impatient) as connection, under(connection) as sock:
            sock.sendall(text)
            assert b"FATAL" in until_closed(sock), text
    with connected(impatient) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_what_is_wrong_in_a_right_message_is_an_error_and_no_more(impatient: Served) -> None:
    with connected(impatient) as connection:
        pgconn = connection.pgconn
        pgconn.exec_prepared(b"no such statement", [])
        pgconn.describe_portal(b"no such portal")
        pgconn.prepare(b"one", b"SELECT $1::int")
        results = [
            pgconn.exec_prepared(b"one", []),
            pgconn.exec_prepared(b"one", [b"12x"]),
            pgconn.exec_params(b"SELECT $1", [b"\1"], [23], [1]),
            pgconn.exec_params(b"SELECT $0, $70000", []),
            pgconn.exec_(b"SELECT " + b"(" * 5000 + b"1" + b")" * 5000),
            pgconn.exec_(b"SELECT " + b"(" * 400 + b"lr" + b")" * 400 + b" FROM flor, nowhere"),
        ]
        for result in results:
            assert result.status == psycopg.pq.ExecStatus.FATAL_ERROR
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_message_that_is_too_long_is_refused(impatient: Served) -> None:
    with connected(impatient) as connection:
        assert connection.execute("SELECT length(%s)", ("x" * 90_000,)).fetchone() == (90_000,)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT length(%s)", ("x" * 200_000,))


def test_clients_that_are_slow_are_sent_away(impatient: Served) -> None:
    silent, halfway = raw(impatient), raw(impatient)
    halfway.sendall(START[:10])
    patient = connected(impatient)
    stuck = connected(impatient)
    with under(stuck) as sock:
        sock.sendall(b"Q" + struct.pack("!i", 100))
        for other in (silent, halfway, sock):
            began = time.monotonic()
            assert b"no message within 1 s" in until_closed(other)
            assert time.monotonic() - began < 9
    assert patient.execute("SELECT 1").fetchone() == (1,)  # it was logged in, and only thought
    for connection in (patient, stuck):
        connection.close()
    for sock in (silent, halfway):
        sock.close()


def test_a_client_that_does_not_read_is_sent_away(impatient: Served) -> None:
    with connected(impatient) as connection:
        connection.pgconn.send_query(b"SELECT repeat('x', 1000) FROM range(1000000)")
        with under(connection) as sock:
            select.select([sock], [], [], 30)  # the first rows are there
        time.sleep(3)
        result = connection.pgconn.get_result()
        assert result is not None
        assert result.status == psycopg.pq.ExecStatus.FATAL_ERROR
    with connected(impatient) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_wrong_tokens_and_cancel_keys_open_nothing(impatient: Served) -> None:
    for token in ("", "x", impatient.token[:-1], impatient.token + "x", "é" * 20):
        with pytest.raises(psycopg.OperationalError):
            connected(impatient, password=token)
    with connected(impatient) as connection:
        for number in range(1, 40):
            with raw(impatient) as sock:
                sock.sendall(struct.pack("!iiii", 16, 80877102, number, 0))
                assert until_closed(sock) == b""
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_two_hundred_connections_and_no_more_than_the_limit(impatient: Served) -> None:
    connections = [connected(impatient) for _ in range(200)]
    try:
        for connection in connections:
            connection.pgconn.send_query(b"SELECT tstamp FROM runs ORDER BY 1")
        for connection in connections:
            result = connection.pgconn.get_result()
            assert result is not None
            assert (result.ntuples, result.nfields) == (3, 1)
            assert connection.pgconn.get_result() is None
        more = [connected(impatient) for _ in range(10)]
        connections += more
        with pytest.raises(psycopg.OperationalError, match="clients already"):
            connected(impatient)
    finally:
        for connection in connections:
            connection.close()
    deadline = time.monotonic() + 10
    while True:
        try:
            connected(impatient).close()
            break
        except psycopg.OperationalError:
            assert time.monotonic() < deadline


def test_tls_with_a_certificate_made_for_the_project(recorded: Sandbox, tmp_path: Path) -> None:
    place = copied(recorded, tmp_path)
    with served(place, "--tls-self-signed") as server:
        certificate = place.project.store / "serve.crt"
        assert (place.project.store / "serve.key").stat().st_mode & 0o777 == 0o600
        secure = {"sslmode": "verify-full", "sslrootcert": str(certificate)}
        with connected(server, host="localhost", **secure) as connection:
            assert connection.pgconn.ssl_in_use
            assert connection.execute("SELECT max(lr) FROM flor").fetchone() == (2.0,)
            cursor = connection.execute("SELECT repeat('x', 1000) FROM range(20000)")
            assert len(cursor.fetchall()) == 20_000
        with pytest.raises(psycopg.OperationalError, match="wants TLS"):
            connected(server, sslmode="disable")
        with raw(server) as sock:
            sock.sendall(struct.pack("!ii", 8, 80877103))
            assert sock.recv(1) == b"S"
            sock.sendall(b"this is no handshake at all")
            until_closed(sock)
        with raw(server) as sock:
            sock.sendall(struct.pack("!ii", 8, 80877103) + START)  # before the handshake
            assert sock.recv(1) == b"S"
            assert b"R" not in until_closed(sock)[:1]
        context = ssl.create_default_context(cafile=str(certificate))
        assert context.cert_store_stats()["x509"] == 1


def test_other_machines_are_served_over_tls_alone(recorded: Sandbox) -> None:
    command = [sys.executable, "-m", "flordb", "serve", "--host", "0.0.0.0"]
    ports = ["--postgres-port", "0", "--quack-port", "-1"]
    done = subprocess.run(
        [*command, *ports],
        cwd=recorded.root,
        env=recorded.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "wants TLS: --tls-self-signed" in done.stderr


def test_the_token_is_its_owners_alone(tmp_path: Path) -> None:
    project = Project(tmp_path, has_git=False)
    before = os.umask(0)
    try:
        token = token_of(project)
    finally:
        os.umask(before)
    path = token_file(project)
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(token) >= 32
    assert token_of(project) == token
    path.chmod(0o640)
    with pytest.raises(ServeError, match="can be read by others"):
        token_of(project)
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(ServeError, match="does not hold a token"):
        token_of(project)
