"""The texts of README.md and docs/ that come from the files in ReducedResults/."""
