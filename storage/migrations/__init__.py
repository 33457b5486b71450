"""Alembic migrations of our own tables, run by storage.db.migrate; Optuna migrates its own."""
