"""A certificate that only those trust who are told to."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CERTIFICATE = "cert.pem"
KEY = "key.pem"
OPENSSL = shutil.which("openssl")


def make_certificate(folder: Path) -> Path:
    """Write one for 127.0.0.1, signed by itself, and its key; the path of the certificate."""
    if OPENSSL is None:
        raise RuntimeError("making a certificate needs the openssl command")
    command = (
        f"{OPENSSL} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
        f"-days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1 "
        f"-addext basicConstraints=critical,CA:FALSE "
        f"-keyout {folder / KEY} -out {folder / CERTIFICATE}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return folder / CERTIFICATE
