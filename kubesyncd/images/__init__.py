"""Keep the images that features need, and remove older ones."""
