"""`tocsin demo`: a service on a throw-away store with receivers of every type on this machine."""
