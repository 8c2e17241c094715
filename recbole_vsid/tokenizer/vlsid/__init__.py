"""What belongs to VLSID's tokenizer alone (arXiv 2602.16375)."""
