"""The four conditions: measure, then judge."""
