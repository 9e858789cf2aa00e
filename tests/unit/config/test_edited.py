"""Changing a settings file: what is not meant stays, and there is never half a file or somebody else's work lost."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest
import tomlkit

from embedtui.config import SPECS, edited, from_typed, load_settings, replace_file, typed, write_toml
from embedtui.errors import SettingsError

FULL: dict[str, object] = {
    "table": 'app."My Docs"', "key": ["Id", "Part, two"], "content": ["title"], "scope": "tenant = 'a # b'",
    "placement": "table", "distance": "l2", "halfvec": False, "new_model.name": "m", "new_model.dimensions": 7,
    "new_model.key_variable": "", "new_model.document_prefix": "passage: ", "new_model.timeout_seconds": 2.5,
    "new_model.headers": {"x-team": "search", "query": {"x-use": "$TOKEN"}}, "index.method": "ivfflat",
    "pacing.spend_cap": 1.5, "throttle.long_transaction_seconds": False, "cutover.roles": ["product", "other"],
}  # fmt: skip


def test_what_is_typed_is_what_is_shown(tmp_path: Path) -> None:
    """Every setting, set or not, reads back from the text it is shown as."""
    settings = load_settings(FULL, environ={}, cwd=tmp_path)
    for spec in SPECS:
        text = typed(settings.value(spec.path))
        if text:
            assert from_typed(spec.path, text) == settings.value(spec.path), spec.path
        else:
            assert settings.value(spec.path) in (None, ()), spec.path


def test_a_setting_takes_the_place_where_it_stands_commented_out(tmp_path: Path) -> None:
    path = tmp_path / "embedtui.toml"
    write_toml(path, load_settings({"table": "documents"}, environ={}, cwd=tmp_path))
    before = path.read_text()
    after = edited(before, {"pacing.spend_cap": 5.0, "new_model.name": "m", "index.m": 32})
    changed = [(old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert changed == [
        ("# name =  # as the provider calls it", 'name = "m"  # as the provider calls it'),
        (
            "# m = 16  # hnsw: connections per layer (pgvector's default is 16)",
            "m = 32  # hnsw: connections per layer (pgvector's default is 16)",
        ),
        ("# spend_cap =  # stop at this much money", "spend_cap = 5.0  # stop at this much money"),
    ]
    assert tomlkit.parse(after).unwrap()["new_model"] == {"name": "m"}, "and not the old one's"
    # changed in place, and taken out again
    again = edited(after, {"pacing.spend_cap": 6.0})
    assert again == after.replace("spend_cap = 5.0", "spend_cap = 6.0")
    assert "spend_cap" not in tomlkit.parse(edited(again, {"pacing.spend_cap": None})).unwrap().get("pacing", {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# mine\n",
        'table = "t"\n[new_model]\nname = "m" # why\n\n# about pace\n[pacing]\nmax_concurrency = 3\n',
        'new_model.name = "m"\n',
        'scope = """\n# spend_cap = 1\n"""\n[pacing]\n',
        'table = "t"\r\n[pacing]\r\n# spend_cap = \r\n',
    ],
)
def test_any_file_says_it_afterwards_and_nothing_else(text: str) -> None:
    before = tomlkit.parse(text).unwrap()
    after = tomlkit.parse(edited(text, {"pacing.spend_cap": 5.0, "name": "n", "new_model.pad_to": None})).unwrap()
    assert after.pop("name") == "n"
    assert after["pacing"].pop("spend_cap") == 5.0
    assert {head: each for head, each in after.items() if each} == {head: each for head, each in before.items() if each}
    for line in text.splitlines():
        if line.startswith(("# mine", "# about")):
            assert line in edited(text, {"pacing.spend_cap": 5.0})


def test_a_changed_file_is_not_written_over_and_keeps_mode_and_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "embedtui.toml"
    real.write_text("# one\n")
    real.chmod(0o600)
    link.symlink_to(real)
    with pytest.raises(SettingsError, match="changed by somebody else"):
        replace_file(link, "# three\n", seen="# two\n")
    with pytest.raises(SettingsError, match="changed by somebody else"):
        replace_file(link, "# three\n", seen=None)
    assert real.read_text() == "# one\n"
    replace_file(link, "# two\n", seen="# one\n")
    assert link.is_symlink()
    assert real.read_text() == "# two\n"
    assert real.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.iterdir()) == [link, real]


def test_what_is_read_only_stays_and_a_file_keeps_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "embedtui.toml"
    file.write_text("# one\n")
    file.chmod(0o444)
    with pytest.raises(SettingsError, match="read-only"):
        replace_file(file, "# two\n")
    file.chmod(0o640)
    if os.getuid() == 0:
        os.chown(file, 1234, 1234)
        replace_file(file, "# two\n")
        assert (file.stat().st_uid, file.stat().st_gid, file.stat().st_mode & 0o777) == (1234, 1234, 0o640)
    circle = tmp_path / "circle.toml"
    circle.symlink_to(circle)
    with pytest.raises(SettingsError, match=r"leads to itself|symbolic links"):
        replace_file(circle, "# two\n")


def test_of_two_who_change_it_at_once_one_is_told(tmp_path: Path) -> None:
    file = tmp_path / "embedtui.toml"
    for _ in range(30):
        file.write_text("")
        start, written = threading.Barrier(4), list[str]()

        def write(text: str, start: threading.Barrier = start, written: list[str] = written) -> None:
            start.wait()
            with contextlib.suppress(SettingsError):
                replace_file(file, text, seen="")
                written.append(text)

        threads = [threading.Thread(target=write, args=[f"# {number}\n"]) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert written == [file.read_text()]


def test_a_file_that_is_none_by_now_is_refused_and_odd_line_ends_stay() -> None:
    with pytest.raises(SettingsError, match="not valid TOML"):
        edited("a = [[[", {"pacing.spend_cap": 5.0})
    odd = '# a\u2028b\nname = "a\u2028\x85b"\n[pacing]\n# spend_cap =\n'
    assert edited(odd, {"pacing.spend_cap": 5.0}) == odd.replace("# spend_cap =", "spend_cap = 5.0")


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("pacing.spend_cap", "free", "must be a number"),
        ("pacing.spend_cap", "1e400", "must be a number"),
        ("pacing.max_concurrency", "9" * 5_000, "must be a whole number"),
        ("index.m", "inf", "must be a whole number"),
        ("new_model.key_variable", "co7aB3kd9fLqP0zXw2Vt5Yh8Nm1Rj4Ussecret", "never the secret itself"),
        ("database_variable", "jina_0a1b2c3d4e5f60718293a4b5secret", "never the secret itself"),
        ("new_model.key_variable", "sk-secret-secret", "never the secret itself"),
        ("new_model.headers", '{ authorization = "Bearer x" }', "looks like a secret"),
        ("new_model.headers", "{ nonsense", "must be a table"),
        ("placement", "side", "must be auto, column, table"),
    ],
)
def test_a_wrong_value_is_refused_by_name(path: str, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as error:
        from_typed(path, text)
    assert error.value.message.startswith(path)
    assert "secret-secret" not in error.value.message
    assert "Ussecret" not in error.value.message


@pytest.mark.parametrize(
    "hook",
    ["curl -H 'Authorization: Bearer co7aB3kd9fLqP0zXw2Vt5Yh8' x", "psql postgres://u:hidden-word@h/d -c 1"],
)
def test_a_secret_within_a_command_is_not_taken(hook: str) -> None:
    with pytest.raises(SettingsError, match="looks like a secret") as error:
        from_typed("cutover.hook", hook)
    assert hook not in error.value.message
    assert from_typed("cutover.hook", 'curl -H "Authorization: Bearer $DEPLOY_TOKEN" https://u:$PASSWORD@h/')


@pytest.mark.parametrize("name", ["AZURE_OPENAI_API_KEY_2", "KEY", "DATABASE_URL_EU_WEST_1_READ_REPLICA", "", "k8s"])
def test_names_of_variables_are_no_secrets(name: str) -> None:
    assert from_typed("new_model.key_variable", name or '""') == name
