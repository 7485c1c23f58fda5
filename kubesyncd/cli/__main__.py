"""Run `kubesync` as `python -m kubesyncd.cli`."""

from kubesyncd.cli import main

if __name__ == "__main__":
    main()
