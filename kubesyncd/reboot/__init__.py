"""Prepare a switch for a reboot, and carry its context into the next image."""
