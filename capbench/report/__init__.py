"""Runs beside one another: read, compared, and shown as a table, as a page, and at W&B."""
