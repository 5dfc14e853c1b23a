"""The scenes that a change of the engine, a wire or the door is judged by: each for itself, in less than a minute, on loopback."""
