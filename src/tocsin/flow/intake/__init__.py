"""Taking in: a request becomes rows, kept before it is answered."""
