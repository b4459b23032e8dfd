"""The store: what is stored, how it is written, read and followed."""
