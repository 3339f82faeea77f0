"""One use case a file, named by a verb phrase; the ports they need stand in ports.py."""
