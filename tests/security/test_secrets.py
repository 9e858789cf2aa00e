"""No path tells a secret: mistyped connection strings, short keys, wrong settings; and ordinary words stay."""

from __future__ import annotations

import string
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from embedtui import redaction
from embedtui.config import load_settings
from embedtui.errors import EmbedtuiError, SettingsError
from embedtui.postgres.connect import connect, translate
from embedtui.postgres.dsn import EXAMPLE, mistake
from embedtui.providers.http_errors import clean
from embedtui.redaction import hide, redact
from tests.kits.cli_kit import InProcess, Shell

FORMS = (
    "postgres//u:{pw}@127.0.0.1:1/db",
    "postgresql//u:{pw}@h/db",
    "postgresql:/u:{pw}@127.0.0.1:1/db",
    "postgres:u:{pw}@h",
    "postgresql:///u:{pw}@127.0.0.1:1/db",
    "postgresq://u:{pw}@127.0.0.1:1/db",
    "//u:{pw}@h/db",
    "u:{pw}@h/db",
    "postgresql://u:{pw}@127.0.0.1:1/db",
    "postgresql://u:{pw}%zz@127.0.0.1:1/db",
    "postgresql://u:{pw} x@127.0.0.1:1/db",
    "postgresql://u:x@{pw}@127.0.0.1:1/db",
    "postgresql://u:x/{pw}@127.0.0.1:1/db",
    "postgresql://u:x?{pw}@127.0.0.1:1/db",
    "postgresql://u:x#{pw}@127.0.0.1:1/db",
    "postgresql://u:[{pw}@127.0.0.1:1/db",
    "postgresql://u:{pw}:x@127.0.0.1:1/db",
    "postgresql://u:{pw}@127.0.0.1:1,127.0.0.1:x/db",
    "postgresql://u:{pw}@127.0.0.1:1/db?sslmode=nonsense",
    "postgresql://u@127.0.0.1:1/db?password={pw}",
    "postgresql://u@127.0.0.1:1/db?pasword={pw}",
    "postgresql://u@127.0.0.1:1/db?password=x&{pw}",
    "postgresql://u;{pw}@127.0.0.1:1/db",
    "postgresql://u:{pw}/127.0.0.1/db",
    "host=127.0.0.1 port=1 user=u password={pw}",
    "host=127.0.0.1 port=1 password='{pw}",
    "host=127.0.0.1 port=1 password='{pw}' x",
    "host=127.0.0.1 port=1 password=x {pw}",
    "host=127.0.0.1 port=1 pass={pw}",
    "password = {pw} host=127.0.0.1 port=1",
    "{pw}",
    "jdbc:postgresql://u:{pw}@127.0.0.1:1/db",
    "DATABASE_URL=postgresql://u:{pw}@127.0.0.1:1/db",
    "'postgresql://u:{pw}@127.0.0.1:1/db'",
    "postgresql://u:{pw}@127.0.0.1:1@x/db",
    "postgresql://127.0.0.1:1/u:{pw}@db",
)
MODEL = {"EMBED_MODEL": "m", "EMBED_DIMENSIONS": "8"}
TABLE = ("--table", "documents")
RUN = 4
"""A shared run of so many characters tells something of a password …"""
FIXED = " ".join(
    [
        EXAMPLE,
        *(mistake(form) for form in FORMS),
        "DATABASE_URL is not a connection string: DATABASE_URL may be mistyped.",
        "No database at the address in DATABASE_URL: 127.0.0.1:1 embedtui: Database lost: connection failed:",
        'connection to server at "127.0.0.1", port 1 failed: Connection refused.',
        "Is the server running, and DATABASE_URL right? failed to resolve host:",
        "[Errno -2] Name or service not known. [Errno -8] Servname not supported for ai_socktype",
        'invalid port number: integer value for connection option "port" sslmode value: "nonsense" ***',
        "embedtui: Usage: Settings: Traceback (most recent call last): Unexpected database x u db",
    ]
)
"""… unless it is one of our own words, or the library's about addresses that stand in the form itself."""


def leaked(text: str, password: str) -> str:
    """The first run of the password in ``text`` that none of the fixed words has."""
    for start in range(len(password) - RUN + 1):
        run = password[start : start + RUN]
        if run in text and run not in FIXED and not any(run in form for form in FORMS):
            return run
    return ""


PASSWORDS = st.text(alphabet=string.ascii_letters + string.digits + string.punctuation + " ", min_size=1, max_size=40)


def told(dsn: str) -> str:
    try:
        connect(dsn, name="check", connect_timeout=2)
    except EmbedtuiError as error:
        return f"{error} {redact(str(error))}"
    raise AssertionError("it connected")


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(password=PASSWORDS)
@example(password="58073021")
@example(password="12345,")
@example(password="SeCr3t-Pa55word")
@example(password="pa@ss/wo:rd?x=1#y%zz q'w\"e\\")
def test_a_mistyped_connection_string_is_not_repeated(form: str, password: str) -> None:
    # a host of its own is no mistake that could be seen, and looking it up takes its time
    assume(not any(each in password for each in "@/?\\") or "{pw}@127" in form or "@{pw}@" in form)
    for typed in (password, quote(password, safe="")):
        dsn = form.format(pw=typed)
        assert not leaked(told(dsn), typed), dsn


@pytest.mark.parametrize("form", FORMS)
def test_no_command_tells_it(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor its traceback."""
    password = "Zq8#vK@7w/Jx"
    for typed in (password, quote(password, safe=""), "Zq8vK7wJxTt"):
        environ = {
            "DATABASE_URL": form.format(pw=typed),
            "EMBEDTUI_DEBUG": "1",
            "EMBED_MODEL": "m",
            "EMBED_DIMENSIONS": "8",
        }
        run = InProcess(tmp_path, environ, monkeypatch, capsys)
        for arguments in (
            ("status",),
            ("plan", "--table", "documents"),
            ("run", "--table", "documents"),
            ("log", "--json"),
        ):
            result = run(*arguments)
            assert result.code in (2, 3), result
            assert not leaked(result.out + result.err, typed), result


def test_the_real_command_neither(tmp_path: Path) -> None:
    for form in (FORMS[0], FORMS[11], FORMS[27]):
        shell = Shell(
            tmp_path, {"DATABASE_URL": form.format(pw="Zq8vK7wJxTt"), "EMBED_MODEL": "m", "EMBED_DIMENSIONS": "8"}
        )
        result = shell.spawn("plan", "--table", "documents")
        assert result.code == 3
        assert not leaked(result.out + result.err, "Zq8vK7wJxTt"), result


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("postgres//u:{pw}@h", "neither with postgresql:// nor"),
        ("postgresql://u:{pw}%zz@h", "two hexadecimal digits"),
        ("postgresql://u:{pw} x@h", "blank"),
        ("host=h password='{pw}", "quote"),
        ("postgresql://u:x@{pw}@127.0.0.1:1/db", "may be mistyped"),
    ],
)
def test_what_is_wrong_is_said_all_the_same(form: str, said: str) -> None:
    text = told(form.format(pw="Zq8vK7wJxTt"))
    assert said in text and "%40" in text


def test_a_good_string_keeps_its_host_in_the_message() -> None:
    assert "127.0.0.1:1" in told("postgresql://u:Zq8vK7wJxTt@127.0.0.1:1/db")


def test_what_the_library_says_is_not_taken_for_a_mistyped_string() -> None:
    assert "connection string" not in translate(psycopg.ProgrammingError("x"), dsn="postgresql://u@h/db").message
    assert "connection string" not in translate(psycopg.ProgrammingError("x")).message


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    "line",
    [
        'database_variable = "postgres//u:Zq8vK7wJxTt@h"', 'database_variable = "Zq8vK7wJxTt-x"',
        '[new_model]\nkey_variable = "Zq8vK7wJxTt-x"', '[new_model]\nbase_url = "https//u:Zq8vK7wJxTt@h/v1"',
        '[new_model]\nbase_url = "https:/u:Zq8vK7wJxTt@h"', '[new_model]\nbase_url = "http://[Zq8vK7wJxTt@h"',
    ],
)  # fmt: skip
def test_a_setting_that_holds_a_secret_by_mistake_is_not_repeated(line: str, tmp_path: Path) -> None:
    (tmp_path / "embedtui.toml").write_text(line)
    with pytest.raises(SettingsError) as caught:
        load_settings({}, environ={}, cwd=tmp_path)
    assert not leaked(str(caught.value), "Zq8vK7wJxTt")


# ----------------------------------------------------------------------------------------------------- ordinary words


@pytest.mark.parametrize("secret", ["k", "ok", "none", "key", "a", "1", "tokens", "postgres", "database"])
def test_a_short_or_common_secret_does_not_eat_words(secret: str) -> None:
    text = "429: 1 database of postgres: 100 tokens a minute, none left; the key is ok"
    assert clean(text, secret) == text
    assert hide(text, secret) == text


@pytest.mark.parametrize(
    ("text", "secret", "hidden"),
    [
        ("key hunter2 and hunter22", "hunter2", "key *** and hunter22"),
        ("xx0123456789abcdefxx", "0123456789abcdef", "xx***xx"),
        ("got ABCDEFGHIJKLmnop…", "ABCDEFGHIJKLmnopqrstuvwx0123456789", "got ***…"),
    ],
)
def test_a_known_secret_is_hidden(text: str, secret: str, hidden: str) -> None:
    assert hide(text, secret) == hidden


@given(st.text(alphabet="abcXYZ019-_", min_size=1, max_size=40), st.text(max_size=60), st.text(max_size=60))
def test_no_long_secret_survives(secret: str, before: str, after: str) -> None:
    hidden = hide(f"{before}{secret}{after}", secret)
    assert len(secret) < redaction.LONG or (secret.isalpha() and len(secret) < redaction.WORD) or secret not in hidden


@pytest.mark.parametrize(
    "text",
    [
        "the key user:bob is locked", "http://localhost:11434/v1 does not answer", "10:30 @ noon", "a:b c@d",
        "no password supplied", "the password is wrong", "ratio 3:4", "mail bob@example.com",
    ],
)  # fmt: skip
def test_patterns_leave_ordinary_text_alone(text: str) -> None:
    assert redact(text) == text
