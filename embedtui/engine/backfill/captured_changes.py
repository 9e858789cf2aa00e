"""What the application's statements together ask for each row: whose vector each side's is to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from embedtui.model import Key, Side
from embedtui.postgres.sides.protocol import QueuedRow
from embedtui.postgres.state.queue import Entry
from embedtui.postgres.state.stale import Mark


class Said(Enum):
    """The last word on one side of a row."""

    INSERTED = "inserted"
    """The row came without this vector, or was moved here with one."""
    EDITED = "edited"
    """The content changed, and nobody has written a vector since."""
    WRITTEN = "written"
    """The application wrote the vector with the present content, or after it: it stands."""
    DOUBTED = "doubted"
    """The application wrote the vector, and is not to be believed, or of another content than the present one: it is
    replaced, also where the content is that of our own last vector again."""
    BRIDGED = "bridged"
    """Nothing; a bridge made the old vector, of the present content."""


@dataclass
class Change:
    """What is known, and left to do, for one row of a batch."""

    ids: list[int] = field(default_factory=list)
    """Queue entries that are settled with it."""
    was: set[Key] = field(default_factory=set)
    """Keys that the row had before."""
    said: dict[Side, Said] = field(default_factory=dict)
    sides: set[Side] = field(default_factory=set)
    """Sides that still need something."""
    captured: bool = False
    """Change capture saw the row come or its content change: a scan does not tell which of the two sides is behind."""
    planned: bool | None = None
    """An edit of a row that was there before; False: it came. None: neither was said."""
    mark: Mark | None = None
    """What was noted of its old vector."""
    foreign_mark: bool = False
    """What is noted under its key is of a row that had the key before, and is gone."""

    def old_wanted(self, row: QueuedRow) -> bool:
        """Whether the old side needs a vector, once it is ours to maintain."""
        said = self.said.get(Side.OLD)
        # an inserted row whose new vector is stale was moved between partitions and edited
        moved = said is Said.INSERTED and row.new_present and not row.new_fresh
        return not row.old_present or moved or said in (Said.EDITED, Said.DOUBTED, Said.BRIDGED)

    def old_written(self, row: QueuedRow, trust: bool) -> bool:
        """Whether the old vector is the application's: it said so, or the vector is not the one that a bridge made."""
        said = self.said.get(Side.OLD)
        others = trust and self.mark is not None and row.row.old_digest != self.mark.digest
        return row.old_present and (said is Said.WRITTEN or (said is Said.BRIDGED and others))

    def new_wanted(self, row: QueuedRow, trust: bool) -> bool:
        """Whether the new side needs a vector."""
        said = self.said.get(Side.NEW)
        if not row.new_present or row.forgotten or said is Said.DOUBTED:
            return True
        if row.new_fresh or said is Said.WRITTEN:
            return False
        return row.new_stamped or said is Said.EDITED or not trust


def combine(entries: Iterable[Entry], marks: Mapping[Key, Mark], trust: bool) -> dict[Key, Change]:
    """The changes of rows by their present keys.

    Args:
        entries: all that is queued for these rows, in order.
        marks: rows whose old vector is known not to be the old model's of their content.
        trust: whether a vector that the application wrote stands.
    """
    found = {
        key: Change(said={Side.OLD: Said.EDITED if mark.bridge is None else Said.BRIDGED}, mark=mark)
        for key, mark in marks.items()
    }
    for entry in _as_of_their_place(list(entries)):
        if entry.kind == "t":
            continue
        if entry.kind == "d":
            found.setdefault(entry.key, Change()).said.clear()
            continue
        if entry.was is not None:
            found[entry.key] = _moved(found, entry.was, entry.key)
        change = found.setdefault(entry.key, Change())
        change.ids.append(entry.id)
        if entry.kind == "e":
            change.said.clear()  # what became of it outside is the application's
        change.captured = change.captured or entry.kind == "i" or entry.edited
        if entry.kind in "iue":
            change.planned = entry.kind == "u" and change.planned is not False
        if entry.kind == "i":
            change.said = {Side.OLD: Said.INSERTED, Side.NEW: Said.INSERTED}
        for side, wrote in ((Side.OLD, entry.wrote_old), (Side.NEW, entry.wrote_new)):
            if wrote:
                change.said[side] = Said.WRITTEN if trust else Said.DOUBTED
            elif entry.kind in "ue" and entry.edited:
                change.said[side] = _edited(change.said.get(side))
            elif entry.kind == "s" and change.said.get(side) not in (Said.WRITTEN, Said.DOUBTED):
                # a scan may have begun before the application's last word
                change.said[side] = Said.EDITED
    return found


def _edited(before: Said | None) -> Said:
    """What is said of a side when the content changes."""
    return Said.DOUBTED if before in (Said.WRITTEN, Said.DOUBTED) else Said.EDITED


def _as_of_their_place(entries: Sequence[Entry]) -> list[Entry]:
    """These entries, each under the key that its row had at its place.

    A row that is queued for a text's change is so by the key that it has by then.
    """
    moves = [entry for entry in entries if entry.was is not None]
    result = []
    for entry in entries:
        key = entry.key
        for move in reversed(moves) if entry.text_entry is not None else ():
            if move.key == key and move.was is not None and entry.place < move.place and move.id < entry.id:
                key = move.was
        result.append(replace(entry, key=key))
    return result


def _moved(found: dict[Key, Change], was: Key, key: Key) -> Change:
    """A row goes on under another key; what an earlier row of that key had queued is settled with it."""
    came, before = found.pop(was, Change()), found.get(key, Change())
    return Change(
        ids=[*before.ids, *came.ids],
        was={*before.was, *came.was, was} - {key},
        said=dict(came.said),
        sides=set(),
        captured=came.captured,
        planned=came.planned,
        mark=came.mark,
        foreign_mark=came.mark is None and before.mark is not None,
    )


def rename(changes: dict[Key, Change], text: Key, key: Key) -> None:
    """What was queued by another text of a row's key is the row's."""
    known = sorted((changes.pop(text), changes.get(key, Change())), key=lambda change: max(change.ids, default=0))
    changes[key] = Change(
        ids=[number for change in known for number in change.ids],
        was={text, *known[0].was, *known[1].was} - {key},
        said=known[0].said | known[1].said,
        captured=any(change.captured for change in known),
        planned=known[1].planned if known[0].planned is None else known[0].planned,
        mark=known[1].mark or known[0].mark,
    )


def left_behind(changes: Mapping[Key, Change], keys: Iterable[Key]) -> set[Key]:
    """Keys that these rows had before, and that no other row of the batch has taken."""
    return {was for key in keys for was in changes[key].was} - changes.keys()
