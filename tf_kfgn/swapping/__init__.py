"""One way to swap the class of an object in place, and one to put it back."""
