"""Colours that the common kinds of colour blindness keep apart (Okabe & Ito 2008)."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREY = "#4a4f55"
