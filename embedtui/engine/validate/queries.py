"""Where the queries of a comparison come from, and what is kept of them: texts, judgments, vectors, verdicts."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from embedtui.errors import Refused, SettingsError
from embedtui.formatting import counted
from embedtui.model import Key, Migration, QueryInput, Side
from embedtui.postgres.connect import SEARCH_PATH, Connection, operator_name
from embedtui.postgres.sides.columns import equal_sql, key_types, text_sql, value_sql
from embedtui.postgres.sides.placement import content_sql, has_content_sql, key_join_sql, key_sql, new_side, relation

Vector = NDArray[np.float32]

VERDICTS = ("new", "old", "same", "bad")

ROW_TEXT = 400
"""Characters of a row's content that stand for it in the list of queries; what is searched by are its vectors."""

_TEXT_NAMES = ("text", "query")

_SIDE = "embedtui_side"


@dataclass(frozen=True, slots=True)
class StoredQuery:
    """A query as kept in embedtui.query."""

    id: int
    query: QueryInput
    source: str
    """Where it came from: a file's name, ``sql``, ``rows``."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an operator decided about a query."""

    verdict: str
    """``new``, ``old``, ``same`` or ``bad``."""
    note: str
    who: str


# --------------------------------------------------------------------------------------------------- from a file


def from_file(path: Path) -> tuple[QueryInput, ...]:
    """Queries of a file, by its suffix; blank ones are left out.

    - ``.jsonl``, ``.ndjson``: an object a line: ``text`` (or ``query``), and ``relevant`` if judged: keys, or
      ``{key: gain}``;
    - ``.csv``, ``.tsv``: columns ``text`` (or ``query``) and, if judged, ``relevant``: keys or ``key:gain`` with blanks
      between, or the JSON forms;
    - anything else: a query a line.

    The key of a table with several key columns is a JSON array of its values, also inside ``{key: gain}``.

    Raises:
        SettingsError: it cannot be read; names file and line.
    """
    reader = {".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _csv_rows, ".tsv": _csv_rows}.get(
        path.suffix.lower(), _plain_lines
    )
    try:
        found = tuple(query for query in reader(path) if query.text.strip())
    except OSError as error:
        raise SettingsError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8 text.") from None
    if not found:
        raise SettingsError(f"{path} holds no query.")
    return found


def _plain_lines(path: Path) -> Iterator[QueryInput]:
    for line in path.read_text("utf-8-sig").splitlines():
        yield QueryInput(line.strip())


def _json_lines(path: Path) -> Iterator[QueryInput]:
    for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except ValueError:
            raise SettingsError(f"{where}: not JSON.") from None
        if isinstance(entry, str):
            yield QueryInput(entry.strip())
            continue
        text = next((entry[name] for name in _TEXT_NAMES if name in entry), None) if isinstance(entry, dict) else None
        if not isinstance(text, str):
            raise SettingsError(f"{where}: no `text`.", hint='Example: {"text": "how to …", "relevant": ["17"]}')
        yield QueryInput(text.strip(), judgments(entry.get("relevant"), where))


def _csv_rows(path: Path) -> Iterator[QueryInput]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter=delimiter)
        name = next((name for name in _TEXT_NAMES if name in (rows.fieldnames or ())), None)
        if name is None:
            raise SettingsError(f"{path}: no column `text`.", hint="Its first line names the columns: text,relevant")
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            yield QueryInput((row[name] or "").strip(), judgments(row.get("relevant"), where))


def judgments(value: object, where: str) -> tuple[tuple[Key, float], ...]:
    """(key, gain) of a ``relevant`` entry: None, keys, ``{key: gain}``, or text as in a CSV cell.

    Raises:
        SettingsError: anything else; ``where`` names the place.
    """
    if isinstance(value, str):
        stripped = value.strip()
        if stripped[:1] in ("[", "{"):
            try:
                value = json.loads(stripped)
            except ValueError:
                raise SettingsError(f"{where}: `relevant` is not JSON.") from None
        else:
            return tuple(_key_and_gain(part) for part in stripped.split())
    if value is None:
        return ()
    if isinstance(value, dict):
        pairs = [(_key(key, where), gain) for key, gain in value.items()]
    elif isinstance(value, list):
        pairs = [(_key(key, where), 1.0) for key in value]
    else:
        raise SettingsError(f"{where}: `relevant` is neither keys nor {{key: gain}}.")
    for _, gain in pairs:
        if isinstance(gain, bool) or not isinstance(gain, int | float):
            raise SettingsError(f"{where}: a gain is not a number: {gain!r}.")
    return tuple((key, float(gain)) for key, gain in pairs)


def _key_and_gain(part: str) -> tuple[Key, float]:
    key, colon, gain = part.rpartition(":")
    try:
        return ((key,), float(gain)) if colon else ((part,), 1.0)
    except ValueError:
        return (part,), 1.0


def _key(value: object, where: str) -> Key:
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            pass
    parts = value if isinstance(value, list) else [value]
    if not parts or not all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in parts):
        raise SettingsError(f"{where}: not a key: {value!r}.")
    return tuple(str(part) for part in parts)


# --------------------------------------------------------------------------------------- from SQL, from the table


def from_sql(conn: Connection, query: str, *, limit: int = 10_000) -> tuple[QueryInput, ...]:
    """Queries of a query log: column ``text`` (or ``query``, or the first), optionally ``relevant`` and ``vector``.

    ``vector`` is the old model's, as the service logged it: then a dead old model can still be compared. ``relevant``
    is an array of keys or a JSON object ``{key: gain}``. Runs read-only; at most ``limit`` rows are taken. Repeated
    texts are taken once.

    Raises:
        SettingsError: the statement fails or yields no text.
    """
    found: dict[str, QueryInput] = {}
    try:
        with conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
            conn.execute("SET TRANSACTION READ ONLY")
            cursor.execute(query.encode())  # the operator's own statement
            if cursor.description is None:
                raise SettingsError("The statement for queries returns no rows.", hint="It should be a SELECT.")
            names = [column.name for column in cursor.description]
            name = next((name for name in _TEXT_NAMES if name in names), names[0])
            for row in cursor.fetchmany(limit):
                text = row[name]
                if isinstance(text, str) and text.strip():
                    given = judgments(row.get("relevant"), "The statement for queries")
                    found.setdefault(text.strip(), QueryInput(text.strip(), given, vector=_numbers(row.get("vector"))))
    except psycopg.Error as error:
        line = (error.diag.message_primary or str(error)).splitlines()[0]
        hint = ""
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedFunction):
            hint = f"Write the schema of tables and functions: our search_path is {SEARCH_PATH}."
        raise SettingsError(f"The statement for queries fails: {line}.", hint=hint) from None
    if not found:
        raise SettingsError("The statement for queries returns no text.")
    return tuple(found.values())


def _numbers(value: Any) -> tuple[float, ...]:
    """Floats of a vector column of whatever type: vector, halfvec, real[], text."""
    if value is None:
        return ()
    if isinstance(value, str):
        value = json.loads(value)
    if hasattr(value, "to_list"):
        value = value.to_list()
    return tuple(float(number) for number in value)


def from_rows(conn: Connection, migration: Migration, count: int) -> tuple[QueryInput, ...]:
    """Rows of the table as queries: ``count`` of those with both vectors, drawn by their keys' hash.

    The same rows are drawn again as long as they exist, so that a repeated comparison is one. Needs no model.
    """
    alias = migration.table.name
    drawn = conn.execute(
        sql.SQL(
            "SELECT {key}, pg_catalog.left({content}, {length}) FROM {both}"
            " WHERE {present} AND {has_content} ORDER BY pg_catalog.hashtextextended(({key})::text, 5), 1 LIMIT {count}"
        ).format(
            key=key_sql(migration, alias),
            content=content_sql(migration, alias),
            has_content=has_content_sql(migration, alias),
            length=sql.Literal(ROW_TEXT),
            both=both_sides_sql(migration),
            present=both_present_sql(migration),
            count=sql.Literal(count),
        )
    ).fetchall()
    if not drawn:
        raise Refused(
            f"No row of {migration.table} has both vectors yet.",
            hint="Let the backfill run first.",
        )
    return tuple(QueryInput(text, row=tuple(key)) for key, text in drawn)


def both_sides_sql(migration: Migration) -> sql.Composed:
    """FROM item with both sides; bare column names mean the user's table, which keeps its own name.

    A side table is joined as ``embedtui_side`` with its columns renamed; rows without a new vector are kept.
    """
    side = new_side(migration)
    if side.table == migration.table:
        return sql.SQL("{}").format(relation(migration.table))
    keys = [(name, f"embedtui_key_{number}") for number, name in enumerate(migration.key_columns, 1)]
    return sql.SQL(
        "{table} LEFT JOIN (SELECT {keys}, {vector} AS embedtui_vector, xmin AS embedtui_xmin FROM {side}) AS {alias}"
        " ON {match}"
    ).format(
        table=relation(migration.table),
        keys=sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(sql.Identifier(name), sql.Identifier(alias)) for name, alias in keys
        ),
        vector=sql.Identifier(side.embedding),
        side=relation(side.table),
        alias=sql.Identifier(_SIDE),
        match=sql.SQL(" AND ").join(
            equal_sql(migration, name, sql.Identifier(_SIDE, alias), sql.Identifier(migration.table.name, name))
            for name, alias in keys
        ),
    )


def vector_column(migration: Migration, side: Side) -> sql.Identifier:
    """A side's vector in :func:`both_sides_sql`."""
    found = new_side(migration)
    if side is Side.NEW and found.table != migration.table:
        return sql.Identifier(_SIDE, "embedtui_vector")
    return sql.Identifier(migration.table.name, migration.old_column if side is Side.OLD else found.embedding)


def vector_bytes_sql(migration: Migration, side: Side) -> sql.Composed:
    """A side's vector in :func:`both_sides_sql` as bytea, in pgvector's binary form."""
    kind = migration.old_vector_type if side is Side.OLD else migration.vector_type
    send = sql.Identifier(migration.vector_schema, f"{kind}_send")
    return sql.SQL("{}({})").format(send, vector_column(migration, side))


def vector_number(migration: Migration, side: Side) -> np.dtype[Any]:
    """Type of the numbers in :func:`vector_bytes_sql`; they begin after four bytes of head."""
    kind = migration.old_vector_type if side is Side.OLD else migration.vector_type
    return np.dtype(">f2" if kind == "halfvec" else ">f4")


def both_present_sql(migration: Migration) -> sql.Composed:
    """Condition over :func:`both_sides_sql`: a row has both vectors."""
    return sql.SQL("{} IS NOT NULL AND {} IS NOT NULL").format(
        vector_column(migration, Side.OLD), vector_column(migration, Side.NEW)
    )


# -------------------------------------------------------------------------------------------------------- kept


def _judged_keys(conn: Connection, migration: Migration, queries: Sequence[QueryInput]) -> dict[Key, Key]:
    """Each judged key as the table writes it: results are told by their keys' text, and a uuid has several.

    Raises:
        SettingsError: as ``store``.
    """
    given = list({key for query in queries for key, _ in query.relevant})
    width = len(migration.key_columns)
    for key in given:
        if len(key) != width:
            raise SettingsError(
                f"The key of {migration.table} has {counted(width, 'column', 'columns')},"
                f" a judged key has {len(key)}: {list(key)}.",
                hint="A key of several columns is a JSON array.",
            )
    parts = sql.SQL(", ").join(
        text_sql(sql.SQL("({})").format(value_sql(migration, name, sql.SQL("k.key[{}]").format(position))), kind)
        for position, (name, kind) in enumerate(key_types(migration).items(), 1)
    )
    query = sql.SQL("SELECT k.key, ARRAY[{}] FROM {}").format(parts, keys_sql())
    try:
        rows = conn.execute(query, {"keys": Jsonb([list(key) for key in given])}).fetchall()
    except psycopg.DataError as error:
        raise SettingsError(
            f"A judged key is not one of {migration.table}: {error.diag.message_primary or error}.",
            hint=f"The key is {', '.join(migration.key_columns)} ({', '.join(migration.key_types)}).",
        ) from None
    return {tuple(key): tuple(stored) for key, stored in rows}


def store(conn: Connection, migration: Migration, queries: Sequence[QueryInput], source: str = "") -> tuple[int, ...]:
    """Keep queries, with the old model's vectors where the log had them; returns their ids in the same order.

    A query stored before keeps its id, vectors and verdicts; judgments that come with it replace the stored ones.

    Raises:
        SettingsError: a judged key is not one that the table could have.
    """
    if not queries:
        return ()
    keys = _judged_keys(conn, migration, queries)
    entries = [
        {
            # neither NUL nor half a surrogate pair is text to PostgreSQL
            "text": query.text.replace("\0", "").encode("utf-8", "replace").decode("utf-8"),
            "row": list(query.row) if query.row is not None else None,
            "relevant": [[list(keys[key]), gain] for key, gain in query.relevant],
        }
        for query in queries
    ]
    rows = conn.execute(
        """
        WITH given AS (
            SELECT number, entry->>'text' AS text, entry->'relevant' AS relevant,
                   CASE WHEN pg_catalog.jsonb_typeof(entry->'row') = 'array'
                        THEN ARRAY(SELECT pg_catalog.jsonb_array_elements_text(entry->'row')) END AS row_key
            FROM pg_catalog.jsonb_array_elements(%(entries)s::jsonb) WITH ORDINALITY AS e(entry, number)),
        stored AS (
            INSERT INTO embedtui.query AS q (migration, text, row_key, relevant, source)
            SELECT DISTINCT ON (md5(text), coalesce(row_key, '{}')) %(migration)s, text, row_key, relevant, %(source)s
            FROM given ORDER BY md5(text), coalesce(row_key, '{}'), number DESC
            ON CONFLICT (migration, md5(text), coalesce(row_key, '{}')) DO UPDATE SET
                relevant = CASE WHEN excluded.relevant = '[]' THEN q.relevant ELSE excluded.relevant END,
                source = CASE WHEN excluded.source = '' THEN q.source ELSE excluded.source END
            RETURNING id, text, row_key)
        SELECT stored.id FROM given JOIN stored ON md5(given.text) = md5(stored.text)
           AND coalesce(given.row_key, '{}') = coalesce(stored.row_key, '{}') ORDER BY given.number
        """,
        {"entries": Jsonb(entries), "migration": migration.id, "source": source},
    ).fetchall()
    ids = tuple(row[0] for row in rows)
    logged = {
        number: np.asarray(query.vector, np.float32) for number, query in zip(ids, queries, strict=True) if query.vector
    }
    fitting = {n: vector for n, vector in logged.items() if len(vector) == migration.old_model.dimensions}
    if len(fitting) < len(logged):
        wrong = len(next(vector for n, vector in logged.items() if n not in fitting))
        raise SettingsError(
            f"Logged query vectors have {counted(wrong, 'dimension', 'dimensions')}, {migration.old_model.name} has"
            f" {migration.old_model.dimensions:,}."
        )
    store_vectors(conn, migration.old_model.id, fitting)
    return ids


def load(conn: Connection, migration: Migration, ids: Iterable[int] | None = None) -> tuple[StoredQuery, ...]:
    """Stored queries, oldest first: those with these ids, or all of this migration."""
    rows = conn.execute(
        "SELECT id, text, row_key, relevant, source FROM embedtui.query"
        " WHERE migration = %(m)s AND (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s)) ORDER BY id",
        {"m": migration.id, "ids": None if ids is None else list(ids)},
    )
    return tuple(
        StoredQuery(
            number,
            QueryInput(
                text,
                tuple((tuple(key), float(gain)) for key, gain in relevant),
                tuple(row_key) if row_key is not None else None,
            ),
            source,
        )
        for number, text, row_key, relevant, source in rows
    )


def load_vectors(conn: Connection, model: int | None, ids: Sequence[int]) -> dict[int, Vector]:
    """Kept vectors of these queries under this model (id in embedtui.model); those without are absent."""
    rows = conn.execute(
        "SELECT query, pg_catalog.array_send(vector) FROM embedtui.query_vector WHERE model = %s AND query = ANY (%s)",
        [model, list(ids)],
        binary=True,
    )
    # array_send: 20 bytes of head for one dimension, then length and value of each number
    element = np.dtype([("length", ">i4"), ("value", ">f4")])
    return {query: np.frombuffer(data, element, offset=20)["value"].astype(np.float32) for query, data in rows}


def store_vectors(conn: Connection, model: int | None, vectors: Mapping[int, Vector]) -> None:
    """Keep vectors of queries under a model, so that they are paid for once."""
    if not vectors:
        return
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO embedtui.query_vector (query, model, vector) VALUES (%s, %s, %s::text::real[])"
            " ON CONFLICT (query, model) DO UPDATE SET vector = excluded.vector",
            [(query, model, "{" + ",".join(map(repr, vector.tolist())) + "}") for query, vector in vectors.items()],
        )


def keys_sql(parameter: str = "keys") -> sql.Composed:
    """FROM item ``k(key text[])`` of the bound jsonb list of keys (arrays of arrays are not ragged in SQL)."""
    return sql.SQL(
        "(SELECT ARRAY(SELECT pg_catalog.jsonb_array_elements_text(e.value)) AS key"
        " FROM pg_catalog.jsonb_array_elements({}::jsonb) e) k"
    ).format(sql.Placeholder(parameter))


def row_vectors(conn: Connection, migration: Migration, keys: Sequence[Key]) -> dict[Key, dict[Side, Vector]]:
    """Both vectors of rows; rows that are gone or lack one are absent."""
    rows = conn.execute(
        sql.SQL("SELECT k.key, {old}, {new} FROM {both} JOIN {keys} ON {match} WHERE {present}").format(
            old=vector_bytes_sql(migration, Side.OLD),
            new=vector_bytes_sql(migration, Side.NEW),
            keys=keys_sql(),
            both=both_sides_sql(migration),
            match=key_join_sql(migration, migration.table.name, sql.SQL("k.key")),
            present=both_present_sql(migration),
        ),
        {"keys": Jsonb([list(key) for key in keys])},
        binary=True,
    )
    sides = ((Side.OLD, migration.old_model.dimensions), (Side.NEW, migration.new_model.dimensions))
    found: dict[Key, dict[Side, Vector]] = {}
    for key, *data in rows:
        pair = {
            side: np.frombuffer(raw, vector_number(migration, side), offset=4).astype(np.float32)
            for (side, _), raw in zip(sides, data, strict=True)
        }
        # a column declared without dimensions may hold vectors of others
        if all(len(pair[side]) == dimensions for side, dimensions in sides):
            found[tuple(key)] = pair
    return found


# ------------------------------------------------------------------------------------------------------ verdicts


def decide(conn: Connection, query: int, verdict: str, note: str | None = None) -> None:
    """Record the operator's verdict on a query; a new one replaces the operator's own earlier one, empty takes it back.

    Given again without a note (None), it keeps the one it had; an empty one takes it away.

    Raises:
        SettingsError: no such verdict.
        Refused: no such query.
    """
    who = operator_name()
    if not verdict:
        conn.execute("DELETE FROM embedtui.verdict WHERE query = %s AND who = %s", [query, who])
        return
    if verdict not in VERDICTS:
        raise SettingsError(f"No verdict {verdict!r}.", hint=f"One of: {', '.join(VERDICTS)}.")
    stored = conn.execute(
        "INSERT INTO embedtui.verdict AS v (query, who, verdict, note)"
        " SELECT id, %(who)s, %(verdict)s, coalesce(%(note)s, '') FROM embedtui.query WHERE id = %(query)s"
        " ON CONFLICT (query, who) DO UPDATE SET verdict = excluded.verdict, at = now(), note ="
        " CASE WHEN %(note)s::text IS NULL AND excluded.verdict = v.verdict THEN v.note ELSE excluded.note END",
        {"who": who, "verdict": verdict, "note": note, "query": query},
    ).rowcount
    if not stored:
        raise Refused(f"There is no query {query}.")


def verdicts(conn: Connection, ids: Sequence[int]) -> dict[int, Verdict]:
    """The verdict on each of these queries; where several operators gave one, the newest."""
    rows = conn.execute(
        "SELECT DISTINCT ON (query) query, verdict, note, who FROM embedtui.verdict WHERE query = ANY (%s)"
        " ORDER BY query, at DESC, who",
        [list(ids)],
    )
    return {query: Verdict(verdict, note, who) for query, verdict, note, who in rows}
