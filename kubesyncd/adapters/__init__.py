"""Translate foreign protocols to the ports: Redis, Docker, Kubernetes, systemd, kubeadm, HTTP; one file each."""
