"""Run by Alembic, on the connection and inside the transaction that storage.db.migrate gives."""

from alembic import context

from storage.file import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # a kill in the middle of a migration leaves the old schema
)
context.run_migrations()
