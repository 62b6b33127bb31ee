"""What is run by hand: the numbers in docs/ that are neither product nor test."""
