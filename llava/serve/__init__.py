"""Upstream's command lines for people."""
