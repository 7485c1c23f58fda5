"""Assemble the daemon and supervise its parts."""
