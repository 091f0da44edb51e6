"""Checks before `up` starts anything: key files, certificates, and that they belong together."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import structlog

from dictpfl.common.errors import CertificateError
from dictpfl.common.files import private_files, require_private
from dictpfl.deploy.operations.certificates import require_valid

_log = structlog.get_logger(__name__)
_UNKNOWN_ISSUER, _EXPIRED, _NOT_YET, _OTHER_NAME = {18, 19, 20, 21}, {10}, {9}, {62, 64}
"""OpenSSL's verification codes."""
_MOST_FLIGHTS = 20


def require_own_files(folder: Path) -> None:
    """Refuse a party's secret files if others than their owner may read them; warn root in another user's folder.

    Raises:
        KeyFileError: others than the owner may read one.
    """
    if os.geteuid() == 0 and (owner := folder.stat().st_uid):
        _log.warning(
            "root works in another user's folder: what is written now is root's, and commands of that user will fail on it; stop, give files that "
            "are root's back (chown), and start as that user",
            folder=str(folder),
            owner=owner,
        )
    for path in private_files(folder):
        require_private(path)


def require_certificate(certificate: Path, key: Path, authority: Path, name: str = "localhost") -> None:
    """Have a server with this certificate and a client with this authority shake hands, in memory.

    So what is accepted here is what OpenSSL accepts later; the proxy and `dictpfl run` reach the SuperLink by `name`.

    Raises:
        CertificateError: expired, not the key's, not the authority's, not for the name, or not readable.
        KeyFileError: others than the owner may read the key.
    """
    for path in (certificate, authority):
        require_valid(path)
    require_private(key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(
            f"{certificate} and {key} do not belong together ({error.strerror or error}); make both anew with "
            "`dictpfl certificates`, or fetch the certificate that your authority made for this key"
        ) from error
    client = trusting(authority)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(_MOST_FLIGHTS):
        waiting = []
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting.append(end)
            except ssl.SSLCertVerificationError as error:
                raise CertificateError(meaning(error, str(certificate), authority)) from error
            except ssl.SSLError as error:
                raise CertificateError(f"{certificate} cannot be used: {error.reason or error}") from error
        if not waiting:
            return
    raise CertificateError(f"{certificate} cannot be used: TLS with it comes to no end")


def trusting(authority: Path) -> ssl.SSLContext:
    """Return a client's TLS settings that take certificates of this authority only.

    Raises:
        CertificateError: the file cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=str(authority))
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(
            f"cannot use {authority} ({error}); ask the coordinator for its authority's certificate"
        ) from error


def meaning(error: ssl.SSLCertVerificationError, whose: str, authority: Path) -> str:
    """Explain OpenSSL's refusal of a certificate, and what to do; `whose`: a file or HOST:PORT."""
    if error.verify_code in _EXPIRED:
        return f"the certificate of {whose} has expired; its operator must renew it (or this machine's clock is wrong)"
    if error.verify_code in _NOT_YET:
        return f"the certificate of {whose} is not valid yet; most likely this machine's clock is wrong"
    if error.verify_code in _UNKNOWN_ISSUER:
        return (
            f"the certificate of {whose} is not signed by the authority in {authority}: wrong authority, or somebody in "
            "between. Do not go on; ask the coordinator for the right ca.pem and compare it by phone"
        )
    if error.verify_code in _OTHER_NAME:
        return f"the certificate of {whose} is for another name; use the name that is in it, or have it renewed"
    return f"the certificate of {whose} is refused: {error.verify_message}"
