"""The command line, and all services in one process. The only package that may import services."""

import os

# gRPC reads it when it is imported. What it logs itself is about connections that we close ourselves.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
