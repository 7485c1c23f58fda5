"""Answer requests on the two Unix sockets."""
