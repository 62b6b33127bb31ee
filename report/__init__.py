"""What is shown of runs: numbers, figures, pages, posters, model cards."""
