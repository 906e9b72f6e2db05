"""Chat template, transcripts and the parser of answers."""
