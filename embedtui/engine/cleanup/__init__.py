"""The end of a migration: cleanup and abort."""
