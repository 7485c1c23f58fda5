"""kubesyncd: runs SONiC features from the switch's own image or from Kubernetes."""

__version__ = "0.1.0"
