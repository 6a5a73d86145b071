"""From a source of text to fixed-shape batches: readers -> tokenise -> examples -> loader."""
