"""Run by alembic inside `storage.upgrade`, on the connection and in the transaction that it holds.

To add a version, write `versions/NNNN_what.py` beside the others (`script.py.mako` has its shape); the test
that compares models with migrations prints what is still missing. No logging is configured here: the process that
opens the database has its own.
"""

from alembic import context

from storage.search import is_index
from storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_name=lambda name, kind, parents: not is_index(name),
    render_as_batch=True,  # SQLite cannot alter a constraint; batch mode rebuilds the table
)
with context.begin_transaction():
    context.run_migrations()
