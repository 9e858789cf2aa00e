"""What an attacker plants, and whether any of it ran as somebody else."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import psycopg

import embedtui
from embedtui.demo.database import EmbeddedServer

_numbers = itertools.count(1)

# The types that our parameters, columns and catalog look-ups have; better matches are made of them.
TYPES = (
    *("smallint", "integer", "bigint", "double precision", "numeric", "boolean", "text", "varchar", "name", '"char"'),
    *("oid", "regclass", "text[]", "name[]", "jsonb", "timestamptz", "interval", "uuid", "tid"),
)
NEARER: dict[str, tuple[str, ...]] = {
    "bigint": ("integer", "smallint"),
    "integer": ("smallint",),
    "text": ("character varying", "name"),
    "oid": ("integer", "bigint", "regclass"),
    "regclass": ("oid", "text"),
    "double precision": ("numeric", "integer", "bigint", "real"),
    "numeric": ("integer", "bigint"),
    "name": ("text", "character varying"),
    "timestamp with time zone": ("date", "timestamp without time zone"),
    '"any"': ("text", "bigint", "boolean", "name", "text[]"),
    "anyelement": ("text", "bigint", "integer", "boolean", "name"),
    "anyarray": ("text[]", "bigint[]", "oid[]", "name[]"),
    "anycompatible": ("text", "bigint", "integer"),
    "anycompatiblearray": ("text[]", "name[]"),
    "anynonarray": ("text", "bigint"),
    "json": ("jsonb",),
    "record": ("text",),
}
"""By a declared argument's type: types for which a function of exactly that type is preferred to the declared one."""

OPERATORS = ("=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "||", "~", "->", "->>", "@>", "~~", "!~~", "&")
VECTOR_OPERATORS = ("<=>", "<->", "<#>", "=", "+")


class Hostile:
    """A database in which ``role`` may do what anybody may on PostgreSQL 14: create in public, temporary tables.

    What is planted says in the server's log who it ran as; that is seen even from a read-only or failed transaction.
    """

    def __init__(self, server: EmbeddedServer, database: str, role: str, application: str) -> None:
        self.database, self.role, self.application = database, role, application
        self.admin = server.dsn(database)
        self.dsn = server.dsn(database, role)
        self.application_dsn = server.dsn(database, application)
        self._log: Path = server.path / "log"

    @staticmethod
    def number() -> int:
        return next(_numbers)

    @property
    def mark(self) -> str:
        return f"planted in {self.database}:"

    def run(self, *statements: str) -> None:
        """As the attacker."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement)  # type: ignore[arg-type]

    def as_admin(self, *statements: str) -> None:
        """As the superuser, with a search path that nothing planted is in."""
        with psycopg.connect(self.admin, autocommit=True, options="-c search_path=pg_catalog") as conn:
            for statement in statements:
                conn.execute(statement)  # type: ignore[arg-type]

    def tell(self, what: str, result: str = "RETURN NULL;") -> str:
        """A PL/pgSQL body that tells who it ran as, when that is not the attacker."""
        return (
            f"$planted$ BEGIN IF current_user OPERATOR(pg_catalog.<>) '{self.role}'"
            f" THEN RAISE WARNING '{self.mark} {what.replace(chr(39), '')} as %', current_user; END IF;"
            f" {result} END $planted$"
        )

    def ran(self) -> list[str]:
        """What ran as somebody else so far."""
        found = re.findall(re.escape(self.mark) + r" (.*)", self._log.read_text(errors="replace"))
        return sorted(set(found))

    def plant_functions(self, conn: psycopg.Connection, names: Sequence[str]) -> int:
        """Better-matching overloads in public of catalog functions: every argument of a type that needs no cast."""
        signatures = conn.execute(
            "SELECT p.proname, ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY u (t, n)"
            " ORDER BY n) FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY (%s)"
            " AND p.prokind IN ('f', 'a', 'w') AND p.pronargs <= 4",
            [list(names)],
        ).fetchall()
        wanted: set[tuple[str, tuple[str, ...]]] = set()
        for name, arguments in signatures:
            choices = [[kind, *NEARER.get(kind, ())] for kind in arguments]
            for combination in itertools.islice(itertools.product(*choices), 40):
                if not any(kind.startswith(("any", '"any"', "record", "internal", "cstring")) for kind in combination):
                    wanted.add((name, combination))
        statements = []
        for name, arguments in sorted(wanted):
            what = f"{name}({', '.join(arguments)})"
            quoted = what.replace(name, f'"{name}"', 1)
            statements.append(f"CREATE FUNCTION public.{quoted} RETURNS text LANGUAGE plpgsql AS {self.tell(what)}")
        conn.execute(";".join(statements))
        return len(wanted)

    def plant_operators(
        self, conn: psycopg.Connection, names: Sequence[str], types: Sequence[str], same: bool = True
    ) -> int:
        """Operators in public for every two of the types; without ``same`` not of a type with itself."""
        statements = []
        for left, right in itertools.product(types, types):
            if left == right and not same:
                continue
            routine = re.sub(r"\W", "_", f"planted_{left}_{right}")
            statements.append(
                f'CREATE FUNCTION public."{routine}"({left}, {right}) RETURNS boolean LANGUAGE plpgsql'
                f" AS {self.tell(f'operator {left} {right}')}"
            )
            statements += [
                f'CREATE OPERATOR public.{name} (FUNCTION = public."{routine}", LEFTARG = {left}, RIGHTARG = {right})'
                for name in names
            ]
        conn.execute(";".join(statements))
        return len(statements)


def called_functions() -> list[str]:
    """Names in our sources that look like calls in SQL; those of them that are catalog functions get planted."""
    text = ""
    for path in Path(embedtui.__file__).parent.rglob("*"):
        if path.suffix in (".py", ".sql"):
            text += path.read_text()
    return sorted({name.lower() for name in re.findall(r"\b([a-z_][a-z0-9_]*)\s*\(", text)})
