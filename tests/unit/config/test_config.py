"""Settings: what comes before what, and the line said when one is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from embedtui.config import SPECS, ModelSettings, Settings, load_settings, loading, write_toml
from embedtui.config.values import variable
from embedtui.errors import ExitCode, SettingsError
from embedtui.known import KNOWN_MODELS
from embedtui.model import Distance, IndexMethod, PlacementKind

Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads settings in an empty folder, with nothing of the machine's own."""
    monkeypatch.setattr(loading, "user_config_file", lambda: tmp_path / "user" / "embedtui.toml")

    def run(
        toml: str | None = None,
        *,
        env: Mapping[str, str] | None = None,
        dotenv: str | None = None,
        user: str | None = None,
        **flags: Any,
    ) -> Settings:
        for name, text in (("embedtui.toml", toml), (".env", dotenv), ("user/embedtui.toml", user)):
            if text is not None:
                (tmp_path / name).parent.mkdir(exist_ok=True)
                (tmp_path / name).write_text(text, "utf-8")
        named = {name.replace("__", "."): value for name, value in flags.items()}
        return load_settings(named, environ=env or {}, cwd=tmp_path)

    return run


def test_flags_come_before_environment_before_dotenv_before_file_before_defaults(load: Load) -> None:
    file = '[new_model]\nname = "from-file"\ndimensions = 1\n'
    assert load(file).new_model.name == "from-file"
    assert load(file, dotenv="EMBED_MODEL=from-dotenv\n").new_model.name == "from-dotenv"
    assert load(file, env={"EMBED_MODEL": "from-env"}).new_model.name == "from-env"
    settings = load(file, env={"EMBED_MODEL": "from-env"}, new_model__name="from-flag")
    assert settings.new_model.name == "from-flag"
    assert settings.new_model.dimensions == 1
    assert settings.origin("new_model.name") == "--new-model"
    assert settings.origin("new_model.dimensions") == "embedtui.toml"
    assert settings.origin("placement") == "default"


def test_a_dotenv_beside_the_named_file_comes_before_the_working_folders(tmp_path: Path) -> None:
    here, ops = tmp_path / "here", tmp_path / "ops"
    for folder, text in ((here, "A=here\nB=here\nC=here\n"), (ops, "A=ops\nB=ops\nEMBED_DIMENSIONS=8\n")):
        folder.mkdir()
        (folder / ".env").write_text(text, "utf-8")
    (ops / "embedtui.toml").write_text('table = "documents"\n', "utf-8")
    named = load_settings(environ={"A": "environment"}, cwd=here, config=ops / "embedtui.toml")
    assert [named.environ[name] for name in "ABC"] == ["environment", "ops", "here"]
    assert named.origin("new_model.dimensions") == f"EMBED_DIMENSIONS in {ops / '.env'}"
    assert [load_settings(environ={}, cwd=here).environ[name] for name in "ABC"] == ["here"] * 3
    assert named.again is not None
    (ops / ".env").write_text("B=later\n", "utf-8")
    assert named.again(named.environ).environ["B"] == "later"


def test_origin_tells_the_environment_from_dotenv(load: Load) -> None:
    assert load(env={"EMBED_DIMENSIONS": "8"}).origin("new_model.dimensions") == "EMBED_DIMENSIONS"
    assert load(dotenv="EMBED_DIMENSIONS=8\n").origin("new_model.dimensions") == "EMBED_DIMENSIONS in .env"


def test_the_users_file_is_read_where_the_folder_has_none(load: Load) -> None:
    assert load(user='table = "users"\n').table == "users"
    assert load('table = "here"\n', user='table = "users"\n').table == "here"


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No settings file"):
        load_settings({}, environ={}, cwd=tmp_path, config=tmp_path / "none.toml")


def test_the_articles_environment_is_enough(load: Load) -> None:
    settings = load(
        env={
            "DATABASE_URL": "postgresql+psycopg2://u:p@h/d",
            "OPENAI_API_KEY": "sk-secret-secret",
            "OPENAI_BASE_URL": "http://localhost:1/v1",
            "EMBED_MODEL": "text-embedding-3-large",
            "EMBED_DIMENSIONS": "768",
        }
    )
    model = settings.new_model.complete("new")
    assert settings.dsn == "postgresql://u:p@h/d"
    assert (model.name, model.dimensions, model.base_url) == ("text-embedding-3-large", 768, "http://localhost:1/v1")
    assert model.price_per_million == KNOWN_MODELS["text-embedding-3-large"].price_per_million
    assert model.send_dimensions and not model.retired
    assert "sk-secret" not in repr(settings) and "u:p@" not in repr(settings)


def test_a_dotenv_password_is_taken_as_it_is(load: Load) -> None:
    assert load(dotenv="DATABASE_URL=postgresql://u:a${HOME}$b@h/d\n").dsn == "postgresql://u:a${HOME}$b@h/d"


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ('[old_model]\nname = "text-embedding-3-small"\n', "http://e/v1", "http://e/v1"),
        ('[old_model]\nname = "text-embedding-004"\n', None, "http://e/v1"),  # Gemini's own key and endpoint
        ('[old_model]\nname = "m"\nbase_url = "http://old/v1"\n', "http://old/v1", "http://e/v1"),
        ('[new_model]\nkey_variable = "OTHER_KEY"\nbase_url = "http://new/v1"\n', None, "http://new/v1"),
        ('[new_model]\nbase_url = "http://file/v1"\n', None, "http://e/v1"),
        (
            '[new_model]\nprovider = "jina"\nkey_variable = "OPENAI_API_KEY"\nbase_url = "http://jina/v1"\n',
            None,
            "http://jina/v1",
        ),
    ],
)
def test_openai_base_url_goes_to_models_with_openais_key(load: Load, file: str, old: str | None, new: str) -> None:
    settings = load(file, env={"OPENAI_BASE_URL": "http://e/v1"})
    assert (settings.old_model.base_url, settings.new_model.base_url) == (old, new)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('tabel = "x"', "tabel (embedtui.toml): no such setting; did you mean table?"),
        ("[pacing]\nmax_concurency = 3", "pacing.max_concurency (embedtui.toml): no such setting; did you mean "
         "pacing.max_concurrency?"),
        ("max_concurrency = 3", "did you mean pacing.max_concurrency?"),
        ("[pacing]\nmax_concurrency = 0", "pacing.max_concurrency = 0 (embedtui.toml): must be a whole number from 1 "
         "to 256."),
        ("[pacing]\nmax_concurrency = true", "must be a whole number"),
        (
            '[pacing]\nspend_cap = "free"',
            'pacing.spend_cap = "free" (embedtui.toml): must be a number of at least 0.',
        ),
        ("[pacing]\nspend_cap = nan", "must be a number"),
        ('placement = "colum"', "must be auto, column, table; did you mean column?"),
        ('distance = "cos"', "must be cosine, l2, ip"),
        ('key = [1]', "must be a list of column names"),
        ('key = ["a", "a"]', "names a column twice"),
        ('table = ""', "must not be empty"),
        ('table = 3', "must be a text in quotes"),
        ("new_model = 3", "must be a section, [new_model]."),
        ("halfvec = \"maybe\"", "must be true or false"),
        ("database_variable = \"not a name\"", "must be the name of an environment variable"),
        ('[new_model]\nbase_url = "api.example.com"', "must be a URL like"),
        ('accept = ["everything"]', "must be publications, proof"),
        ("a = = 1", "embedtui.toml is not valid TOML"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_one_clear_line(load: Load, toml: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(toml)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("toml", "secret"),
    [
        ('[new_model]\napi_key = "abcdefgh12345"', "abcdefgh12345"),
        ('[new_model]\nkey_variable = "sk-abcdefghijkl"', "sk-abcdefghijkl"),
        ('database_variable = "postgresql://u:hunter2@h/d"', "hunter2"),
        ('database_url = "postgresql://h/d"', "postgresql://h/d"),
        ('[new_model]\nbase_url = "https://u:hunter2@h/v1"', "hunter2"),
        ('table = "host=h password=hunter2"', "hunter2"),
        ('[new_model]\nname = "AIzaSyA-1234567890abcdefghij"', "AIza"),
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(load: Load, toml: str, secret: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(toml)
    assert "secret" in str(caught.value) and "environment" in str(caught.value)
    assert secret not in str(caught.value)


def test_a_wrong_value_from_the_environment_names_its_variable(load: Load) -> None:
    with pytest.raises(SettingsError, match=r'new_model\.dimensions = "abc" \(EMBED_DIMENSIONS\)'):
        load(env={"EMBED_DIMENSIONS": "abc"})
    with pytest.raises(SettingsError) as caught:
        load(env={"OPENAI_BASE_URL": "https://u:hunter2@h/v1"})
    assert "hunter2" not in str(caught.value)


def test_no_connection_string_names_the_variable_and_the_mend(load: Load) -> None:
    with pytest.raises(SettingsError, match=r"DATABASE_URL is not set.*environment or \.env"):
        _ = load().dsn
    with pytest.raises(SettingsError, match="PRIMARY_DSN is not set"):
        _ = load('database_variable = "PRIMARY_DSN"', env={"DATABASE_URL": "postgresql://h/d"}).dsn


def test_false_switches_a_throttle_off(load: Load) -> None:
    assert load().throttle.max_replica_lag_seconds is not None
    assert load("[throttle]\nmax_replica_lag_seconds = false\n").throttle.max_replica_lag_seconds is None


@pytest.mark.parametrize(
    ("side", "model", "said"),
    [
        ("new", ModelSettings(), "The new model is not set"),
        ("new", ModelSettings("no-such-model"), "dimensions of no-such-model are not known"),
        ("new", ModelSettings("text-embedding-3-large", 4000), "at most 3072"),
        ("new", ModelSettings("text-embedding-ada-002", 700), "cannot be shortened"),
        ("old", ModelSettings(), "old_model.dimensions"),
    ],
)
def test_a_model_that_cannot_be_completed(side: str, model: ModelSettings, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        model.complete(side)


def test_known_models_fill_in_and_settings_override() -> None:
    gemini = ModelSettings("text-embedding-004").complete("old")
    assert (gemini.dimensions, gemini.provider, gemini.max_inputs, gemini.retired) == (768, "gemini", 100, True)
    ada = ModelSettings("text-embedding-ada-002", price_per_million=0.5).complete("new")
    assert (ada.price_per_million, ada.send_dimensions) == (0.5, False)
    own = ModelSettings("own", 12, key_variable="", retired=False).complete("new")
    assert (own.price_per_million, own.key_variable, own.provider) == (None, "", "openai")
    nameless = ModelSettings().complete("old", dimensions=5)
    assert (nameless.dimensions, nameless.retired) == (5, False)


def test_a_written_file_reads_back_the_same(load: Load, tmp_path: Path) -> None:
    settings = load(
        table='app."My Docs"',
        key=("Id", "Part, two"),
        content=("ti\"tle\\", "naïve\tcolumn"),
        new_model__name="m",
        new_model__dimensions=7,
        old_model__retired=True,
        placement="table",
        distance="l2",
        index__method="ivfflat",
        pacing__spend_cap=1.5,
    )  # fmt: skip
    path = tmp_path / "out" / "embedtui.toml"
    write_toml(path, settings)
    again = load_settings({}, environ={}, cwd=path.parent)
    for spec in SPECS:
        assert again.value(spec.path) == settings.value(spec.path), spec.path
    assert again.placement is PlacementKind.TABLE
    assert again.distance is Distance.L2
    assert again.index.method is IndexMethod.IVFFLAT
    assert list(path.parent.iterdir()) == [path], "no temporary file is left"


def test_a_fresh_file_explains_every_setting_and_holds_no_secret(load: Load, tmp_path: Path) -> None:
    env = {"OPENAI_API_KEY": "sk-verysecret", "DATABASE_URL": "postgresql://u:hunter2@h/d", "EMBED_MODEL": "m"}
    path = tmp_path / "written.toml"
    write_toml(path, load(env=env, table="documents"))
    text = path.read_text("utf-8")
    assert "sk-verysecret" not in text and "hunter2" not in text
    assert 'name = "m"' in text
    for spec in SPECS:
        assert spec.comment in text, spec.path
    # uncommenting what has a value must give a valid file
    lines = [line.removeprefix("# ") for line in text.splitlines() if " =  #" not in line]
    uncommented = "\n".join(line for line in lines if "=" in line or line.startswith("["))
    (tmp_path / "embedtui.toml").write_text(uncommented, "utf-8")
    assert load().table == "documents"


def test_an_existing_file_keeps_its_comments_and_other_settings(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "embedtui.toml"
    path.write_text('# mine\ntable = "before"  # why\n[pacing]\nmax_concurrency = 3\n', "utf-8")
    write_toml(path, load(table="after", key=("id",), new_model__name="m"))
    text = path.read_text("utf-8")
    assert text.startswith('# mine\ntable = "after"  # why\n')
    found = tomlkit.parse(text).unwrap()
    assert found["key"] == ["id"]
    assert found["pacing"] == {"max_concurrency": 3}
    assert found["new_model"] == {"name": "m"}


def test_an_unwritable_folder_is_said(load: Load, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        write_toml(tmp_path / "file" / "embedtui.toml", load())


def test_stored_settings_are_plain_json_without_secrets(load: Load) -> None:
    import json

    stored = load(env={"OPENAI_API_KEY": "sk-verysecret"}, index__method="ivfflat", index__lists=7).stored()
    assert json.loads(json.dumps(stored)) == stored
    chosen = {name: value for name, value in stored["index"].items() if value is not None}
    assert chosen == {"method": "ivfflat", "lists": 7, "m": 16, "ef_construction": 64}
    assert stored["change_capture"] == "triggers"
    assert "sk-verysecret" not in json.dumps(stored)


def test_the_memory_of_the_index_build_is_a_size(load: Load) -> None:
    settings = load(index__maintenance_work_mem="4GB", index__parallel_workers=3)
    assert (settings.index.maintenance_work_mem, settings.index.parallel_workers) == ("4GB", 3)
    with pytest.raises(SettingsError, match="must be a size"):
        load(index__maintenance_work_mem="lots")


def test_every_setting_has_a_place_and_a_comment() -> None:
    settings = Settings()
    for spec in SPECS:
        settings.value(spec.path)
        assert spec.comment


def test_the_example_environment_file_loads(load: Load) -> None:
    text = (Path(__file__).parents[3] / ".env.example").read_text("utf-8")
    settings = load(dotenv=text)
    assert settings.new_model.complete("new").dimensions == 768
    assert settings.dsn.startswith("postgresql://")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("OPENAI_API_KEY_PRODUCTION2", True),
        ("MYCOMPANYEMBEDDINGSPRODUCTIONKEY2", True),
        ("azureopenaigpt4oeastuskey", True),
        ("AKIAIOSFODNN7EXAMPLE9Q2ZD4", False),
        ("co7aB3kd9fLqP0zXw2Vt5Yh8Nm1Rj4Us", False),
        ("a0b1c2d3e4f5061728394a5b6c7d8e9f", False),
        ("AIzaSyD8abcdefGHIJKLmnopqrst", False),
    ],
)
def test_the_name_of_a_variable_is_told_from_a_key(given: str, name: bool) -> None:
    if name:
        assert variable(given) == given
    else:
        with pytest.raises(ValueError, match="never the secret"):
            variable(given)
