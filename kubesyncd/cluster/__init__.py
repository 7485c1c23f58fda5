"""Run this node's side of the API server: link, labels, kubelet, reports."""
