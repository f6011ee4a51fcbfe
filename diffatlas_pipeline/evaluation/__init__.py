"""Metrics, tables, overlay pictures."""
