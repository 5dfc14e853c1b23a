"""`tocsin selftest`: the promises, proven on the user's own machine."""
