"""Documentation; `generate.py` writes the reference tables."""
