"""Prepare a switch for a reboot, and save its context for the next image."""
