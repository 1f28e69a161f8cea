"""What is recorded: kinds of operations, their ends as rows, and how averages go back."""
