"""The agents that hold conversations."""
