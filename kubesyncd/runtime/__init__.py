"""Provide what every long-running process of kubesyncd needs: backoff, alerts, clock, logs, files, child processes."""
