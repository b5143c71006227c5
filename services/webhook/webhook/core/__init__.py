"""What the webhook service decides: pure, no clock, no socket."""
