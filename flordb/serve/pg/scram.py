"""SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side: the client proves that it knows the token,
and the server that it does, and neither sends it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

MECHANISM = "SCRAM-SHA-256"
_ITERATIONS = 4096


class ScramError(Exception):
    """The exchange is not one, or the client does not know the token."""


class Verifier:
    """What the server keeps of the token for the exchange, the same for all clients."""

    def __init__(self, token: str) -> None:
        self.salt = secrets.token_bytes(16)
        salted = hashlib.pbkdf2_hmac("sha256", token.encode(), self.salt, _ITERATIONS)
        self.stored_key = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
        self.server_key = _hmac(salted, b"Server Key")


class Exchange:
    """One client's login: `first`, then `final`. Both raise ScramError."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._header = ""
        self._auth = ""
        self._nonce = ""

    def first(self, message: bytes) -> bytes:
        """The answer to the client's first message."""
        text = _text(message)
        flag, authzid, bare = text.split(",", 2) if text.count(",") >= 2 else ("", "", "")
        if flag not in ("n", "y") or authzid:
            raise ScramError("channel binding and authorization identities are not served")
        nonce = _attributes(bare).get("r", "")
        if not nonce:
            raise ScramError("no nonce")
        self._header = f"{flag},,"
        self._nonce = nonce + secrets.token_urlsafe(18)
        salt = base64.b64encode(self._verifier.salt).decode()
        answer = f"r={self._nonce},s={salt},i={_ITERATIONS}"
        self._auth = f"{bare},{answer}"
        return answer.encode()

    def final(self, message: bytes) -> bytes:
        """The server's proof, where the client's is right."""
        text = _text(message)
        without_proof, _, proof = text.rpartition(",p=")
        given = _attributes(without_proof)
        header = base64.b64encode(self._header.encode()).decode()
        if given.get("c") != header or given.get("r") != self._nonce:
            raise ScramError("another exchange's message")
        auth = f"{self._auth},{without_proof}".encode()
        signature = _hmac(self._verifier.stored_key, auth)
        try:
            proven = base64.b64decode(proof, validate=True)
        except (binascii.Error, ValueError):
            raise ScramError("the proof is not base64") from None
        if len(proven) != len(signature):
            raise ScramError("the proof has the wrong length")
        key = bytes(a ^ b for a, b in zip(proven, signature, strict=True))
        if not hmac.compare_digest(hashlib.sha256(key).digest(), self._verifier.stored_key):
            raise ScramError("the token is wrong")
        return b"v=" + base64.b64encode(_hmac(self._verifier.server_key, auth))


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def _text(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise ScramError("not UTF-8") from None


def _attributes(text: str) -> dict[str, str]:
    return {part[0]: part[2:] for part in text.split(",") if part[1:2] == "="}
