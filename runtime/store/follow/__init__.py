"""Followers: who waits for the changes of a session or the events of a turn."""
