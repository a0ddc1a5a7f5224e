"""Messages between processes: the server, its training workers, its generation process."""
