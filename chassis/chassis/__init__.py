"""What every service stands on: process life, settings, logs, bus, key-value, gRPC, Twirp, tokens.

It knows no room and no track; domain words stand in `ids`, `tokens` and `subjects` only.
"""
