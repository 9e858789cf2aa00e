"""Runs every command that the README shows, in its order, against a real table: python -m tests.readme_commands.

The table is ``documents`` with the demo's corpus; the API answers for the README's model names with the demo's models.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

from embedtui.demo.api import LoopbackServer
from embedtui.demo.corpus import documents
from embedtui.demo.database import EmbeddedServer
from embedtui.demo.models import NEW_MODEL, OLD_MODEL, load_models
from embedtui.demo.questions import QUESTIONS
from tests.kits.support import vector_literal

README = Path(__file__).parent.parent / "README.md"
ROWS = 2000


def blocks() -> list[str]:
    """Shell blocks of the README but those that the gate runs itself."""
    text = re.sub(r"<!-- ci: \w+ -->\n```sh\n.*?```", "", README.read_text("utf-8"), flags=re.DOTALL)
    return re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)


def main() -> int:
    """Run them; the status of the first that fails."""
    corpus = documents(ROWS)
    models = load_models([document.text for document in corpus])
    old, new = models[OLD_MODEL], models[NEW_MODEL]
    with tempfile.TemporaryDirectory(prefix="embedtui-readme-") as folder:
        work = Path(folder)
        with (
            EmbeddedServer(work / "pg", settings={"fsync": "off"}) as server,
            LoopbackServer({"text-embedding-3-small": old, "text-embedding-3-large": new}) as api,
        ):
            dsn = server.dsn()
            numbers = {document.name: number for number, document in enumerate(corpus, 1)}
            with psycopg.connect(dsn, autocommit=True) as conn:
                vectors = old([document.text for document in corpus], None)
                conn.execute("CREATE EXTENSION vector")
                conn.execute(
                    "CREATE TABLE documents (id bigint PRIMARY KEY, content text NOT NULL, metadata jsonb,"
                    f" embedding vector({vectors.shape[1]}))"
                )
                with conn.cursor().copy("COPY documents (id, content, embedding) FROM STDIN") as copy:
                    for document, vector in zip(corpus, vectors, strict=True):
                        copy.write_row((numbers[document.name], document.text, vector_literal(vector)))
                conn.execute(
                    "CREATE INDEX idx_documents_embedding ON documents USING hnsw (embedding vector_cosine_ops)"
                )
            with (work / "questions.jsonl").open("w", encoding="utf-8") as file:
                for question in QUESTIONS:
                    relevant = [str(numbers[name]) for name in question.answers if name in numbers]
                    file.write(json.dumps({"text": question.text, "relevant": relevant}) + "\n")
            environment = os.environ | {
                "DATABASE_URL": dsn,
                "OPENAI_API_KEY": api.key,
                "OPENAI_BASE_URL": api.base_url,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            }
            for number, block in enumerate(blocks(), 1):
                print(f"--- block {number}\n{block}", flush=True)  # noqa: T201
                done = subprocess.run(
                    ["bash", "-euxo", "pipefail", "-c", block],
                    cwd=work,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    check=False,
                )
                if done.returncode:
                    return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
