"""What several processes on one PostgreSQL database promise, put to the test: `tocsin selftest --many`."""
