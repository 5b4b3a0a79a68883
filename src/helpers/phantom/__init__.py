"""The phantom cohort: planted patients, rendered slides, and the Monte-Carlo truth every chapter is judged by."""
