"""Reads: heads, pages and lists, and look-ups that callers share."""
