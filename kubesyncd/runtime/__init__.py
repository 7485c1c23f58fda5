"""Provide what every long-running process of ours needs: backoff, alerts, clock, logs, files, child processes."""
