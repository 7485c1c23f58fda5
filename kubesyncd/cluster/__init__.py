"""Run this node's side of the master: link, labels, kubelet, reports."""
