"""Features: encoders by name, extraction with resume, files in every dialect, and what features give away."""
