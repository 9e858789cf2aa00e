"""Where the queries of a comparison come from: a file, a query log, rows of the table; and the operator's verdicts."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from embedtui.arrays import np
from embedtui.errors import QueriesError, Refused, SettingsError
from embedtui.formatting import counted
from embedtui.model import Key, Migration, QueryInput, Verdict, query_file
from embedtui.postgres.connect import SEARCH_PATH, Connection, operator_name
from embedtui.postgres.sides.both import draw_rows, keys_as_stored
from embedtui.postgres.state.audit import add_audit
from embedtui.postgres.state.queries import remove_queries, store_queries, store_vectors
from embedtui.postgres.state.verdicts import load_verdicts, remove_verdict, store_verdict

VERDICTS = ("new", "old", "same", "bad")
"""What an operator may say of a query: a side is better, both are alike, both are bad."""

ROW_TEXT = 400
"""Characters of a row's content that stand for it in the list of queries; what is searched by are its vectors."""

_STATEMENTS = ("SELECT", "WITH", "TABLE", "VALUES")

_TEXT_NAMES = ("text", "query")


def from_file(path: Path) -> tuple[QueryInput, ...]:
    """Queries of a file, by its suffix; blank ones are left out.

    - ``.jsonl``, ``.ndjson``: an object a line: ``text`` (or ``query``), and ``relevant`` if judged: keys, or
      ``{key: gain}``;
    - ``.csv``, ``.tsv``: columns ``text`` (or ``query``) and, if judged, ``relevant``: keys or ``key:gain`` with blanks
      between, or the JSON forms;
    - anything else: a query a line.

    The key of a table with several key columns is a JSON array of its values, also inside ``{key: gain}``.

    Raises:
        QueriesError: it cannot be read; names file and line.
    """
    reader = {".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _csv_rows, ".tsv": _csv_rows}.get(
        path.suffix.lower(), _plain_lines
    )
    try:
        found = tuple(query for query in reader(path) if query.text.strip())
    except OSError as error:
        raise QueriesError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise QueriesError(f"{path} is not UTF-8 text.") from None
    if not found:
        raise QueriesError(f"{path} holds no query.")
    return found


def given(conn: Connection, text: str) -> tuple[QueryInput, ...]:
    """Queries of the file that ``text`` names, of the statement that it is (SELECT, WITH, …), or of its lines.

    Raises:
        QueriesError: as :func:`from_file` and :func:`from_sql`; or it holds no query.
    """
    if (path := query_file(text)) is not None:
        return from_file(path)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and lines[0].split()[0].upper() in _STATEMENTS:
        return from_sql(conn, text)
    if not lines:
        raise QueriesError("No query is given.")
    return tuple(QueryInput(line) for line in dict.fromkeys(lines))


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
            raise QueriesError(f"{where}: not JSON.") from None
        if isinstance(entry, str):
            yield QueryInput(entry.strip())
            continue
        text = next((entry[name] for name in _TEXT_NAMES if name in entry), None) if isinstance(entry, dict) else None
        if not isinstance(text, str):
            raise QueriesError(f"{where}: no `text`.", hint='Example: {"text": "how to …", "relevant": ["17"]}')
        yield QueryInput(text.strip(), judgments(entry.get("relevant"), where))


def _csv_rows(path: Path) -> Iterator[QueryInput]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter=delimiter)
        name = next((name for name in _TEXT_NAMES if name in (rows.fieldnames or ())), None)
        if name is None:
            raise QueriesError(f"{path}: no column `text`.", hint="Its first line names the columns: text,relevant")
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            yield QueryInput((row[name] or "").strip(), judgments(row.get("relevant"), where))


def judgments(value: object, where: str) -> tuple[tuple[Key, float], ...]:
    """(key, gain) of a ``relevant`` entry: None, keys, ``{key: gain}``, or text as in a CSV cell.

    Raises:
        QueriesError: anything else; ``where`` names the place.
    """
    if isinstance(value, str):
        stripped = value.strip()
        if stripped[:1] in ("[", "{"):
            try:
                value = json.loads(stripped)
            except ValueError:
                raise QueriesError(f"{where}: `relevant` is not JSON.") from None
        else:
            return tuple(_key_and_gain(part) for part in stripped.split())
    if value is None:
        return ()
    if isinstance(value, dict):
        pairs = [(_key(key, where), gain) for key, gain in value.items()]
    elif isinstance(value, list):
        pairs = [(_key(key, where), 1.0) for key in value]
    else:
        raise QueriesError(f"{where}: `relevant` is neither keys nor {{key: gain}}.")
    for _, gain in pairs:
        if isinstance(gain, bool) or not isinstance(gain, int | float):
            raise QueriesError(f"{where}: a gain is not a number: {gain!r}.")
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
        raise QueriesError(f"{where}: not a key: {value!r}.")
    return tuple(str(part) for part in parts)


def from_sql(conn: Connection, query: str, *, limit: int = 10_000) -> tuple[QueryInput, ...]:
    """Queries of a query log: column ``text`` (or ``query``, or the first), optionally ``relevant`` and ``vector``.

    ``vector`` is the old model's, as the service logged it: then a dead old model can still be compared. ``relevant``
    is an array of keys or a JSON object ``{key: gain}``. Runs read-only; at most ``limit`` rows are taken. Repeated
    texts are taken once.

    Raises:
        QueriesError: the statement fails or yields no text.
    """
    found: dict[str, QueryInput] = {}
    try:
        with conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
            conn.execute("SET TRANSACTION READ ONLY")
            cursor.execute(query.encode())  # the operator's own statement
            if not cursor.description:
                raise QueriesError("The statement for queries returns no rows.", hint="It should be a SELECT.")
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
        raise QueriesError(f"The statement for queries fails: {line}.", hint=hint) from None
    if not found:
        raise QueriesError("The statement for queries returns no text.")
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
    drawn = draw_rows(conn, migration, count, ROW_TEXT)
    if not drawn:
        raise Refused(
            f"No row of {migration.table} has both vectors yet.",
            hint="Let the backfill run first.",
        )
    return tuple(QueryInput(text, row=key) for key, text in drawn)


def _judged_keys(conn: Connection, migration: Migration, queries: Sequence[QueryInput]) -> dict[Key, Key]:
    """Each judged key as the table writes it: results are told by their keys' text, and a uuid has several.

    Raises:
        QueriesError: as ``store``.
    """
    given = list({key for query in queries for key, _ in query.relevant})
    width = len(migration.key_columns)
    for key in given:
        if len(key) != width:
            raise QueriesError(
                f"The key of {migration.table} has {counted(width, 'column', 'columns')},"
                f" a judged key has {len(key)}: {list(key)}.",
                hint="A key of several columns is a JSON array.",
            )
    try:
        return keys_as_stored(conn, migration, given)
    except psycopg.DataError as error:
        raise QueriesError(
            f"A judged key is not one of {migration.table}: {error.diag.message_primary or error}.",
            hint=f"The key is {', '.join(migration.key_columns)} ({', '.join(migration.key_types)}).",
        ) from None


def store(conn: Connection, migration: Migration, queries: Sequence[QueryInput], source: str = "") -> tuple[int, ...]:
    """Keep queries, with the old model's vectors where the log had them; returns their ids in the same order.

    A query stored before keeps its id, vectors and verdicts; judgments that come with it replace the stored ones.

    Raises:
        QueriesError: a judged key is not one that the table could have.
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
    ids = store_queries(conn, migration.id, entries, source)
    logged = {
        number: np.asarray(query.vector, np.float32) for number, query in zip(ids, queries, strict=True) if query.vector
    }
    shape = migration.old_model.shape
    sizes = (shape.given, shape.size)  # as the model gave them, or as the application searched with them
    fitting = {n: shape(vector[np.newaxis])[0] for n, vector in logged.items() if len(vector) in sizes}
    if len(fitting) < len(logged):
        wrong = len(next(vector for n, vector in logged.items() if n not in fitting))
        raise QueriesError(
            f"Logged query vectors have {counted(wrong, 'dimension', 'dimensions')}, {migration.old_model.name} has"
            f" {shape.given:,}."
        )
    store_vectors(conn, migration.old_model.id, fitting)
    return ids


def forget(conn: Connection, migration: Migration, ids: Sequence[int]) -> None:
    """Keep queries no longer, of which all have to be there: later comparisons leave them out.

    Evaluations that were recorded with them stand, and count them. The audit log says how many, not their texts, which
    may be rows of the table.

    Raises:
        Refused: there is no such query of this migration.
    """
    wanted = sorted(set(ids))
    with conn.transaction():
        gone = remove_queries(conn, migration.id, wanted)
        if gone < len(wanted):
            named = ", ".join(map(str, wanted))
            raise Refused(f"Not all of these are queries of {migration.table}: {named}.", hint="embedtui queries")
        add_audit(conn, migration.id, "queries forgotten", counted(gone, "query", "queries"))


def decide(conn: Connection, query: int, verdict: str, note: str | None = None) -> Verdict | None:
    """Record the operator's verdict on a query; a new one replaces the operator's own earlier one, empty takes it back.

    Given again without a note (None), it keeps the one it had; an empty one takes it away. Returns the verdict that
    stands: another operator's does after one is taken back.

    Raises:
        SettingsError: no such verdict.
        Refused: no such query.
    """
    who = operator_name()
    if not verdict:
        remove_verdict(conn, query, who)
        return load_verdicts(conn, [query]).get(query)
    if verdict not in VERDICTS:
        raise SettingsError(f"No verdict {verdict!r}.", hint=f"One of: {', '.join(VERDICTS)}.")
    if not store_verdict(conn, query, Verdict(verdict, note, who)):
        raise Refused(f"There is no query {query}.")
    return load_verdicts(conn, [query]).get(query)
