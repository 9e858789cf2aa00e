"""What is there: tables, columns, keys, rights and settings, read from the catalog."""
