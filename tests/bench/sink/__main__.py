"""`python -m bench.sink BLOB`, with `tests` on the path."""

from bench.sink.server import main

main()
