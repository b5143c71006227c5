"""Sans-IO machines and decisions of this service."""
