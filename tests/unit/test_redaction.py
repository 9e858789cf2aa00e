"""What is shown or written down holds no password, no key and no document."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as some

from embedtui import redaction
from embedtui.redaction import redact, remember, secrets_of, without_secrets
from embedtui.tracebacks import FRAGMENT, described, formatted
from tests.kits.log_kit import CONFESSION, DOCUMENT, DSN, KEY, assert_no_secret


@dataclass(frozen=True)
class Row:
    key: tuple[str, ...]
    text: str


@pytest.fixture(autouse=True)
def hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())
    remember(*secrets_of({"MY_PROVIDER": KEY, "DATABASE_URL": DSN, "HOME": "/home/me"}, ["MY_PROVIDER"]))


def raised(work: object) -> BaseException:
    try:
        work()  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError("raised nothing")


@pytest.mark.parametrize(
    ("environ", "named", "found"),
    [
        ({"OPENAI_API_KEY": "sk-abc"}, (), {"sk-abc"}),
        ({"DATABASE_URL": "postgresql://u:p%40ss@h/d"}, (), {"p%40ss"}),
        ({"PG": "host=h password='a b\\'c' user=u"}, (), {"a b\\'c"}),
        ({"PGPASSWORD": "quiet", "GITHUB_TOKEN": "t0ken", "APP_SECRET2": "s"}, (), {"quiet", "t0ken", "s"}),
        ({"HOME": "/root", "KEYBOARD": "us", "MODEL": "m", "PWD": "/srv/app", "OLDPWD": "/srv"}, (), set()),
        ({"DB_PWD": "quiet"}, (), {"quiet"}),
        ({"MODEL": "m"}, ("MODEL",), {"m"}),
    ],
)
def test_secrets_of_an_environment(environ: dict[str, str], named: tuple[str, ...], found: set[str]) -> None:
    assert set(secrets_of(environ, named)) == found


def test_an_encoded_password_is_found_decoded_too() -> None:
    remember(*secrets_of({"X": "postgresql://u:p%40ss%21word@h/d"}))
    assert without_secrets("the password p@ss!word is wrong") == "the password *** is wrong"


@pytest.mark.parametrize(
    "key", ["sk-proj-abcdefgh", "AIzaSyA1234567890_abcdefghijk", "Bearer abc.def", "rk-12345678", "password=x1y2"]
)
def test_redact_knows_keys_by_their_looks(key: str) -> None:
    assert key.split()[-1].split("=")[-1] not in redact(f"refused: {key}.")


def careless() -> None:
    rows = [Row(("1",), DOCUMENT)]
    raise RuntimeError(CONFESSION + str(len(rows)))


def nested() -> None:
    batch = {"rows": ([Row(("1",), DOCUMENT)],)}
    try:
        careless()
    except RuntimeError as error:
        raise ValueError(f"batch failed: {error}") from error
    finally:
        batch.clear()


def in_another_frame() -> None:
    text = DOCUMENT

    def inner(start: str) -> None:
        raise KeyError(start)

    inner(text[:30])


def quoted() -> None:
    raise ValueError(f'invalid input syntax for type bigint: "{DOCUMENT}"')


def grouped() -> None:
    raise ExceptionGroup("several", [raised(careless), raised(quoted)])  # type: ignore[list-item]


@pytest.mark.parametrize("work", [careless, nested, in_another_frame, quoted, grouped])
def test_a_traceback_tells_where_and_no_secret(work: object) -> None:
    text = formatted(raised(work))
    assert work.__name__ in text and "test_redaction.py" in text  # type: ignore[attr-defined]
    assert_no_secret(text)
    assert_no_secret(described(raised(work)))


def test_both_exceptions_of_a_chain_are_told() -> None:
    text = formatted(raised(nested))
    assert text.index("RuntimeError: ") < text.index("direct cause") < text.index("ValueError: batch failed: ")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("embedding"), "KeyError: 'embedding'"),
        (AttributeError("'NoneType' object has no attribute 'rows'"), None),
        (RuntimeError("dictionary changed size during iteration"), None),
        (RuntimeError(""), "RuntimeError"),
        (ValueError("first line\nsecond line"), "ValueError: first line"),
        (OSError(28, "No space left on device", "/var/lib/x.log"), None),
    ],
)
def test_messages_without_data_are_kept(error: Exception, said: str | None) -> None:
    assert described(error) == (said or f"{type(error).__name__}: {error}")


def test_of_a_database_error_only_the_primary_message(database: str) -> None:
    with psycopg.connect(database) as conn:
        conn.execute("CREATE TEMP TABLE docs (content text CHECK (length(content) < 3))")
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            conn.execute("INSERT INTO docs VALUES (%s)", [DOCUMENT])
    # first of all: what an assertion looks at is a variable of this frame, too
    said, all_of_it = described(caught.value), formatted(caught.value)
    assert DOCUMENT in str(caught.value)
    assert "violates check constraint" in said
    assert_no_secret(all_of_it)


def test_what_a_trigger_of_the_application_says_of_a_row(database: str) -> None:
    with psycopg.connect(database) as conn:
        conn.execute(
            "CREATE TABLE docs (content text);"
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$BEGIN RAISE EXCEPTION 'no % here, please', NEW.content; END$$;"
            "CREATE TRIGGER refuse BEFORE INSERT ON docs FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        rows = [Row(("1",), DOCUMENT)]
        with pytest.raises(psycopg.errors.RaiseException) as caught:
            conn.cursor().executemany("INSERT INTO docs VALUES (%s)", [[row.text] for row in rows])
    said, all_of_it = described(caught.value), formatted(caught.value)
    assert DOCUMENT in str(caught.value)
    assert "here, please" in said
    assert_no_secret(all_of_it)


@given(some.text(min_size=20).filter(lambda text: any(map(str.isspace, text))), some.text(max_size=30))
def test_no_run_of_a_text_in_the_variables_gets_into_the_message(text: str, around: str) -> None:
    def careless() -> None:
        document = text
        raise RuntimeError(f"{around}{document}{around}")

    said = described(raised(careless)).removeprefix("RuntimeError: ")
    assert not any(text[at : at + FRAGMENT] in said for at in range(len(text) - FRAGMENT + 1))
