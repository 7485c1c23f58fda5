"""Join a Kubernetes master or leave it: `python -m kubesyncd.join join|reset`, a separate process.

The process outlives a restart of the daemon and has rights that the daemon does not need. The daemon
(`join.controller`) decides when to start it.
"""
