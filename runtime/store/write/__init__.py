"""The write path: commands, the queue, the writer, and the plan of a batch."""
