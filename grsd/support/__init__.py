"""Helpers that every other package may import: checks of arguments, files, folders, versions, progress bars."""
