"""What servers are verified by."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from embedtui.providers.transport import make_client


def test_certificates_are_read_once_for_each_place_that_names_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def context() -> ssl.SSLContext:
        return make_client()._transport._pool._ssl_context  # type: ignore[no-any-return]

    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    usual = context()
    assert usual is context()
    assert usual.verify_mode is ssl.CERT_REQUIRED and usual.check_hostname
    if found := ssl.get_default_verify_paths().cafile:
        own = tmp_path / "own.pem"
        own.write_bytes(Path(found).read_bytes())
        monkeypatch.setenv("SSL_CERT_FILE", str(own))
        named = context()
        assert usual is not named is context()
        os.utime(own, (1, 1))
        assert context() is not named
