"""`python -m bench.matrix`: everything that can go wrong at once, planned from a seed, and every accepted id reconciled afterwards."""
