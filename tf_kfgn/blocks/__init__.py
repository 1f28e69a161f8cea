"""Curvature blocks: how an optimizer averages, damps, inverts and applies one."""
