"""Sweeps: W&B's own sweep files, run on W&B's agents or here."""
