"""PostgreSQL: connections, DDL, locks, the catalog, the sides of a migration, indexes, and our own state."""
