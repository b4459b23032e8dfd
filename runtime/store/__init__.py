"""The store: writes, reads and follows sessions."""
