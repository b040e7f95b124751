"""`python -m bench.sink BLOB`, with `tests` on the path."""

import resource

from bench.sink.server import main

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # each object that is kept has a descriptor
main()
