"""A batch of rows and vectors as binary array parameters; no Python float is made."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.adapt import Dumper
from psycopg.pq import Format

from embedtui.arrays import np, npt
from embedtui.postgres.connect import Connection
from embedtui.postgres.sides.protocol import Vectors

_BIGINT_OID = 20  # pg_type.dat


def prepare_batch(conn: Connection) -> None:
    """Make a connection ready for ``write`` and ``replace``; call once per connection that writes."""
    conn.adapters.register_dumper(BinaryArray, _BinaryArrayDumper)
    # The size of a batch is not known to the planner; without these a small table would be read whole for every batch.
    conn.execute("SET enable_hashjoin = off")
    conn.execute("SET enable_mergejoin = off")


@dataclass(frozen=True, slots=True)
class BinaryArray:
    """An array in PostgreSQL's binary form."""

    data: bytes


class _BinaryArrayDumper(Dumper):
    format = Format.BINARY
    oid = 0  # the statement's cast tells the type

    def dump(self, obj: BinaryArray) -> bytes:
        return obj.data


def _binary_array(element_oid: int, elements: npt.NDArray[np.void]) -> BinaryArray:
    """``elements`` are records of an element's length (int32) and its bytes, big-endian."""
    # dimensions, has NULLs, element type, length, lower bound
    return BinaryArray(struct.pack("!iiIii", 1, 0, element_oid, len(elements), 1) + elements.tobytes())


def vector_array(element_oid: int, vectors: Vectors, half: bool) -> BinaryArray:
    """``vector[]`` (or ``halfvec[]``) of the rows of ``vectors``; no Python float is made."""
    return _binary_array(element_oid, _elements(vectors, half))


def vector_digests(vectors: Vectors, half: bool) -> list[str]:
    """What ``shared.digest_sql`` gives for these vectors once they are stored."""
    return [hashlib.md5(each.tobytes()[4:], usedforsecurity=False).hexdigest() for each in _elements(vectors, half)]


def _elements(vectors: Vectors, half: bool) -> npt.NDArray[np.void]:
    count, dimensions = vectors.shape
    number = np.dtype(">f2" if half else ">f4")
    # pgvector's binary form: dimensions, unused, numbers
    elements = np.empty(
        count, [("length", ">i4"), ("dimensions", ">u2"), ("unused", ">u2"), ("numbers", number, (dimensions,))]
    )
    elements["length"], elements["dimensions"], elements["unused"] = 4 + number.itemsize * dimensions, dimensions, 0
    elements["numbers"] = vectors
    return elements


def bigint_array(values: Sequence[int]) -> BinaryArray:
    """``bigint[]`` of ``values``."""
    elements = np.empty(len(values), [("length", ">i4"), ("value", ">i8")])
    elements["length"], elements["value"] = 8, values
    return _binary_array(_BIGINT_OID, elements)
