"""Notebook 10: the whole chain, from the conditions to the exponent."""
