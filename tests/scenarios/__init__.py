"""One file per scenario: the daemon as a process, real servers, files as producers write them."""
