"""Routers as they report themselves: table ``listener``."""

from __future__ import annotations

REPORT = """
INSERT INTO embedtui.listener AS l
    (id, name, host, pid, application, epoch, epoch_seen_at, searches_old, searches_new)
VALUES (%(id)s, %(name)s, %(host)s, %(pid)s, %(application)s, %(epoch)s,
        clock_timestamp() - make_interval(secs => %(ago)s), %(old)s, %(new)s)
ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, heartbeat = clock_timestamp(),
    epoch_seen_at = CASE WHEN l.epoch = excluded.epoch THEN l.epoch_seen_at ELSE excluded.epoch_seen_at END,
    searches_old = excluded.searches_old, searches_new = excluded.searches_new
"""
