"""The tests: one module per module of the program, real servers in tests/servers."""
