"""Our own tables in schema ``embedtui``."""
