"""Phase plan: what a migration would do, read-only."""
