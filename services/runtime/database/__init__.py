"""The hub's database, SQLite or PostgreSQL: opened, migrated, written by one at a time, read in unchanging states.

Importing this package imports SQLAlchemy: only the hub and its stores do, never the router or a model server.
"""

from services.runtime.database.bulk import bulk_insert
from services.runtime.database.connecting import DatabaseUnusable
from services.runtime.database.database import Database, open_database, sqlite_url

__all__ = ["Database", "DatabaseUnusable", "bulk_insert", "open_database", "sqlite_url"]
