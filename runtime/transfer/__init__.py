"""Imports conversations from other databases: reads a source, stores what it holds, and compares the two."""
