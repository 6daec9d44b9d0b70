"""Self-signed TLS certificate for a local network, with the fingerprint that a person compares."""

import datetime
import ipaddress
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server.access.hosts import allowed_host_names
from server.settings import Settings


def self_signed_certificate(settings: Settings) -> tuple[bytes, bytes, str]:
    """A certificate for this machine's names, valid 30 days: certificate and key as PEM, SHA-256 to compare."""
    names: list[x509.GeneralName] = []
    for name in sorted(allowed_host_names(settings)):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(name.strip("[]"))))
        except ValueError:
            names.append(x509.DNSName(name))
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "knotcast")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )  # fmt: skip
    return pem, secret, certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def server_context(certificate: bytes, key: bytes) -> ssl.SSLContext:
    """TLS of a server with a certificate and its key, both PEM. The key is left nowhere on disk."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.TemporaryDirectory(prefix="knotcast-tls-") as folder:  # 0700; ssl takes files only
        path = Path(folder) / "both.pem"
        path.write_bytes(key + certificate)
        context.load_cert_chain(path)
    return context
