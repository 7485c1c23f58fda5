"""Joining a Kubernetes master and leaving it: `python -m kubesyncd.join join|reset`, a process of its own.

It outlives a restart of the daemon and has rights the daemon does not need. The daemon (`membership`) says when.
"""
