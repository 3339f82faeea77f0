"""The usual way in for WSGI servers."""

from pathlib import Path

import pytest

from app import wsgi
from tests.stack import Key, configuration


def test_flask_and_gunicorn_find_an_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "penstock.toml").write_text(configuration("http://127.0.0.1:9/v1", [Key("k1")]))
    monkeypatch.setenv("PENSTOCK_CONFIG", str(tmp_path / "penstock.toml"))
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/penstock.db")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9/0")
    monkeypatch.setenv("KEY_K1", "sk-1")
    app = wsgi.create_app()
    assert app.test_client().get("/healthz").status_code == 200
    app.close()


def test_what_the_module_does_not_have_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="no attribute"):
        _ = wsgi.nothing  # type: ignore[attr-defined]
