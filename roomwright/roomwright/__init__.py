"""The command line, and all services in one process. The only package that may import services."""
