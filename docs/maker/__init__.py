"""What turns evonb's notebooks into its site; `docs/build.py` is the command."""
