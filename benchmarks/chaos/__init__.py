"""Takes the full journey while everything fails: is any row lost, stale or wrong, does the application ever notice, and
does the work ever stand still?

python -m benchmarks.chaos [--seconds 120] [--seed N] [--placement column|table] [--batch|--live] [--writes 40]

A server of its own, a loopback API, and an application that inserts, edits and deletes from six threads, a quarter
of it in transactions of several rows. Two workers (`embedtui run --follow`) are killed by SIGKILL and started again,
the database is crashed and restarted, connections are cut and statements cancelled, rows are kept locked, and the
provider fails in every way it can, all from a printed seed: texts that it always refuses, in seven ways and by a
firewall's page; limits of texts and of requests that come and go; time-outs and slow spells; an endpoint that moves;
batch jobs (by the seed) that expire, fail, are cancelled or lose their output. Meanwhile: backfill, index, canary,
cutover, rollback.

When it is quiet again, the rows that are blamed have to be those whose texts are refused, and no other. They are
mended, and `verify` has to be clean, a check of its own recomputes what every vector must be on both sides,
everything the application was told is stored has to be there, and cleanup ends the journey. Nor may there have been
more than 60 s without progress while any row could be embedded. Leaves with 1 otherwise.
"""
