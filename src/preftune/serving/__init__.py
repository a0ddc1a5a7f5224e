"""What is served to browsers and clients: the labelling app."""
