"""Followers of the changes of a session and of the events of a turn."""
