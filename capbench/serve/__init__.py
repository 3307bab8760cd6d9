"""Captions for whoever asks over HTTP: a page for people, JSON for programs."""
