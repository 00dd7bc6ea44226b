"""A server that captions photographs: a page for people, and an HTTP API for programs."""
