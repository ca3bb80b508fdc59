"""Notebook 09: from velocity to loss."""
