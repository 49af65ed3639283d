"""A certificate for TLS on this machine."""

import subprocess
from pathlib import Path


def make_certificate(file: Path) -> Path:
    """Write a certificate of 127.0.0.1 that nobody else trusts, with its key, as PEM; return the file."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(file), "-out", f"{file}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + Path(f"{file}.crt").read_bytes())
    return file
