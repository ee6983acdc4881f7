"""Whether anything was written, as a page asks every second."""

from storage.changes import Changes
from storage.database import Database
from storage.metrics import Point, flush
from storage.runs import list_runs


def test_every_commit_and_nothing_else_moves_the_mark(db, new_run):
    changes, other = Changes(db), Database(db.url)
    run = new_run(status="running")
    mark = changes.mark()
    assert changes.mark() == mark
    list_runs(db)
    assert changes.mark() == mark
    for writer in (db, other):  # this process and, as far as the database can tell, another one
        flush(writer, run.id, [Point("lr", 1, 0.0, 1.0)])
        assert changes.mark() != mark
        mark = changes.mark()
    other.close()
