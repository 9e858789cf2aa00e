"""The two sides of a migration in SQL: placements, change capture, search."""
