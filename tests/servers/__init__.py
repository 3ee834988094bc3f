"""Private instances of real servers, and the daemon itself as a process."""
