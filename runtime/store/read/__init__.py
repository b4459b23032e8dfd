"""Reads: heads, pages, lists, and look-ups by key that concurrent callers share."""
