"""What frameworks plug in: a file for each, imported by who uses that framework."""
