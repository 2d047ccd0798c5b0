"""Messages in few bits."""
