"""Put the daemon together and keep it alive."""
