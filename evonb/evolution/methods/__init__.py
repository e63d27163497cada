"""One method, or one family of them, a file."""
