"""The self-signed certificate: whose it is, and that its key stays in memory."""

import hashlib
import ssl
import tempfile
from pathlib import Path

import pytest
from cryptography import x509

from server.access.certificate import self_signed_certificate, server_context
from server.settings import Settings


def test_the_certificate_names_this_server_and_its_fingerprint_is_told() -> None:
    pem, _, fingerprint = self_signed_certificate(Settings(host="0.0.0.0", allowed_hosts=["my.host"]))
    found = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "my.host"} <= set(found.get_values_for_type(x509.DNSName))
    der = ssl.PEM_cert_to_DER_cert(pem.decode())
    assert fingerprint.replace(":", "").lower() == hashlib.sha256(der).hexdigest()


def test_the_key_is_left_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pem, key, _ = self_signed_certificate(Settings())
    assert server_context(pem, key).cert_store_stats()["x509"] == 0
    assert list(tmp_path.iterdir()) == []
