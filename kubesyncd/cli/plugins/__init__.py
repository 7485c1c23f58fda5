"""Our commands under sonic-utilities' `config` and `show`: one module for each of their plugin folders."""
