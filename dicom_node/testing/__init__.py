"""Fakes and phantoms: what a test, or a site that tries the node, plays the outer world with."""
